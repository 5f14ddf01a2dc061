/** Decoders of one frame: JPEG by createImageBitmap, H.264 by WebCodecs. */

import { SessionError } from "./errors.js";

/**
 * @typedef {object} Frame One frame of video.
 * @property {Uint8Array<ArrayBuffer>} data A JPEG image, an access unit of H.264 in Annex-B form, or a
 *   part of the file.
 * @property {"jpeg" | "h264" | "fmp4"} mode
 * @property {string | null} responseId Null in an idle frame.
 * @property {number} frameIndex From 0 in each response.
 * @property {number} ptsMs Milliseconds from the start of the response.
 * @property {number} epoch
 * @property {boolean} keyframe
 * @property {boolean} idle Belongs to no response; shown at once.
 * @property {[number, number, number, number]} [rect] Of a patch: left, top, width and height, pixels.
 * @property {number} [sourceFrame] Of a patch: the picture of the avatar in silence that it covers.
 */

/**
 * @typedef {object} Decoder
 * @property {(frame: Frame) => Promise<ImageBitmap | VideoFrame>} decode
 * @property {() => void} close
 */

/** @implements {Decoder} */
export class JpegDecoder {
  /** @param {Frame} frame */
  decode(frame) {
    return createImageBitmap(new Blob([frame.data], { type: "image/jpeg" }));
  }

  close() {}
}

/**
 * Returns the codec string of an access unit, or null if it has no sequence parameter set.
 * @param {Uint8Array} unit Annex-B.
 * @returns {string | null}
 */
export function codecOf(unit) {
  for (let at = 0; at + 6 < unit.length; at++) {
    const isStart = unit[at] === 0 && unit[at + 1] === 0 && unit[at + 2] === 1;
    if (isStart && (unit[at + 3] & 31) === 7) {
      const digits = [...unit.subarray(at + 4, at + 7)];
      return `avc1.${digits.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
    }
  }
  return null;
}

/**
 * Returns whether this browser can decode the frames of a server, as far as it says so.
 * @returns {Promise<boolean>}
 */
export async function decodesH264() {
  if (typeof VideoDecoder === "undefined") return false;
  try {
    const asked = { codec: "avc1.42e01f", codedWidth: 512, codedHeight: 512 };
    return (await VideoDecoder.isConfigSupported(asked)).supported ?? false;
  } catch {
    return false;
  }
}

/** @typedef {{resolve: (image: VideoFrame) => void, reject: (error: Error) => void}} Waiting */

/** @implements {Decoder} */
export class H264Decoder {
  constructor() {
    /** @type {Map<number, Waiting>} */
    this.waiting = new Map();
    this.count = 0;
    this.codec = "";
    this.needsKeyframe = true;
    /** @type {VideoDecoder | null} */
    this.decoder = null;
  }

  /**
   * @param {Frame} frame
   * @returns {Promise<VideoFrame>}
   * @throws {SessionError} With code `needs_keyframe` for frames after one that was not decoded.
   */
  async decode(frame) {
    if (frame.keyframe) this.#configure(codecOf(frame.data));
    if (this.needsKeyframe || !this.decoder) {
      throw new SessionError("needs_keyframe", "the decoder waits for a keyframe");
    }
    const timestamp = this.count++ * 1000;
    const { decoder } = this;
    return new Promise((resolve, reject) => {
      this.waiting.set(timestamp, { resolve, reject });
      decoder.decode(new EncodedVideoChunk({
        type: frame.keyframe ? "key" : "delta", timestamp, data: frame.data,
      }));
    });
  }

  close() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
    this.#fail(new SessionError("aborted", "the decoder was closed"));
  }

  /** @param {string | null} codec */
  #configure(codec) {
    if (!codec) return;
    if (!this.decoder || this.decoder.state === "closed") {
      this.decoder = new VideoDecoder({
        output: (image) => {
          const waiting = this.waiting.get(image.timestamp);
          this.waiting.delete(image.timestamp);
          if (waiting) waiting.resolve(image);
          else image.close();
        },
        error: (error) => {
          this.codec = "";
          this.#fail(error);
        },
      });
      this.codec = "";
    }
    if (codec !== this.codec) {
      this.decoder.configure({ codec, optimizeForLatency: true });
      this.codec = codec;
    }
    this.needsKeyframe = false;
  }

  /** @param {Error} error */
  #fail(error) {
    this.needsKeyframe = true;
    const failed = [...this.waiting.values()];
    this.waiting.clear();
    for (const { reject } of failed) reject(error);
  }
}
