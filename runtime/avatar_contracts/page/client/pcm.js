/** Sound as the protocol has it: 16-bit little-endian mono PCM, in base64. */

export const RATE = 24000;

/**
 * Returns samples of -1 to 1 as 16-bit integers.
 * @param {Float32Array} samples
 * @returns {Int16Array}
 */
export function toPcm16(samples) {
  return Int16Array.from(samples, (x) => Math.max(-32768, Math.min(32767, Math.round(x * 32768))));
}

/**
 * Returns 16-bit integers as samples of -1 to 1; `toPcm16` gives the same integers back.
 * @param {Int16Array} samples
 * @returns {Float32Array<ArrayBuffer>}
 */
export function fromPcm16(samples) {
  const floats = new Float32Array(samples.length);
  for (let i = 0; i < samples.length; i++) floats[i] = samples[i] / 32768;
  return floats;
}

/**
 * Returns bytes in base64.
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export function encodeBase64(bytes) {
  const parts = [];
  for (let at = 0; at < bytes.length; at += 0x2000) {
    parts.push(String.fromCharCode(...bytes.subarray(at, at + 0x2000)));
  }
  return btoa(parts.join(""));
}

/**
 * Returns the bytes of a base64 text.
 * @param {string} text
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function decodeBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/**
 * Returns 16-bit samples as bytes, little-endian on every machine.
 * @param {Int16Array} samples
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function toBytes(samples) {
  const bytes = new Uint8Array(samples.length * 2);
  const view = new DataView(bytes.buffer);
  samples.forEach((sample, i) => view.setInt16(2 * i, sample, true));
  return bytes;
}

/**
 * Returns the 16-bit samples of bytes in little-endian order.
 * @param {Uint8Array} bytes
 * @returns {Int16Array}
 */
export function fromBytes(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Int16Array.from({ length: bytes.length >> 1 }, (_, i) => view.getInt16(2 * i, true));
}

/**
 * Returns 16-bit samples in base64.
 * @param {Int16Array} samples
 * @returns {string}
 */
export function encodeSamples(samples) {
  return encodeBase64(toBytes(samples));
}

/**
 * Returns the 16-bit samples of a base64 text.
 * @param {string} text
 * @returns {Int16Array}
 */
export function decodeSamples(text) {
  return fromBytes(decodeBase64(text));
}

/**
 * Returns the root mean square of samples, 0 to 1.
 * @param {Int16Array} samples
 * @returns {number}
 */
export function level(samples) {
  if (!samples.length) return 0;
  let sum = 0;
  for (const sample of samples) sum += (sample / 32768) ** 2;
  return Math.sqrt(sum / samples.length);
}

/**
 * Returns the samples of a WAV file with 24 kHz, 16 bits and one channel.
 * @param {ArrayBuffer} file
 * @returns {Int16Array}
 * @throws {RangeError} The file has another format.
 */
export function fromWav(file) {
  const view = new DataView(file);
  const name = (/** @type {number} */ at) => String.fromCharCode(
    ...new Uint8Array(file, at, Math.min(4, file.byteLength - at)));
  if (file.byteLength < 12 || name(0) !== "RIFF" || name(8) !== "WAVE") {
    throw new RangeError("the file must be a WAV file");
  }
  for (let at = 12; at + 8 <= file.byteLength;) {
    const size = view.getUint32(at + 4, true), content = at + 8;
    if (name(at) === "fmt ") {
      const [format, channels] = [view.getUint16(content, true), view.getUint16(content + 2, true)];
      const [rate, bits] = [view.getUint32(content + 4, true), view.getUint16(content + 14, true)];
      if (format !== 1 || channels !== 1 || rate !== RATE || bits !== 16) {
        throw new RangeError(`the file has ${rate} Hz, ${bits} bits and ${channels} channels, must `
          + `have ${RATE} Hz, 16 bits and 1 channel`);
      }
    } else if (name(at) === "data") {
      const length = Math.min(size, file.byteLength - content) >> 1;
      return Int16Array.from({ length }, (_, i) => view.getInt16(content + 2 * i, true));
    }
    at = content + size + (size & 1);
  }
  throw new RangeError("the file has no sound");
}
