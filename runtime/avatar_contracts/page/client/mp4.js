/** What a player has to know of a fragmented MP4 file (ISO/IEC 14496-12): codecs and times. */

/** @typedef {{type: string, start: number, end: number}} Box Its content, without its header. */

/**
 * @typedef {object} Header
 * @property {string} mediaType With the codecs, for MediaSource.
 * @property {number} videoTrack Number of the track.
 * @property {number} timescale Units per second of the times of that track.
 */

const HAS_BASE_DATA_OFFSET = 1, HAS_DESCRIPTION = 2, HAS_DURATION = 8; // flags of `tfhd`

/** @param {Uint8Array} bytes */
function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Returns the boxes of a range; one that does not fit is left out.
 * @param {DataView} view
 * @param {{start: number, end: number}} [range]
 * @returns {Box[]}
 */
function boxes(view, { start, end } = { start: 0, end: view.byteLength }) {
  const found = [];
  for (let at = start; at + 8 <= end;) {
    const size = view.getUint32(at);
    if (size < 8 || at + size > end) break;
    const type = String.fromCharCode(...[4, 5, 6, 7].map((i) => view.getUint8(at + i)));
    found.push({ type, start: at + 8, end: at + size });
    at += size;
  }
  return found;
}

/**
 * Returns the boxes at a path, such as `moov`, `trak`.
 * @param {DataView} view
 * @param {readonly string[]} path
 * @param {{start: number, end: number}} [range]
 * @returns {Box[]}
 */
function find(view, [type, ...rest], range) {
  const found = boxes(view, range).filter((box) => box.type === type);
  return rest.length ? found.flatMap((box) => find(view, rest, box)) : found;
}

/**
 * Returns what the beginning of a file says, or null if `moov` is not in it.
 * @param {Uint8Array} bytes
 * @returns {Header | null}
 */
export function readHeader(bytes) {
  const view = viewOf(bytes);
  for (const track of find(view, ["moov", "trak"])) {
    const [handler] = find(view, ["mdia", "hdlr"], track);
    if (!handler || view.getUint32(handler.start + 8) !== 0x76696465) continue; // vide
    const [tkhd] = find(view, ["tkhd"], track), [mdhd] = find(view, ["mdia", "mdhd"], track);
    const codec = avcCodec(bytes.subarray(track.start, track.end));
    if (!tkhd || !mdhd || !codec) return null;
    // Versions 1 of both have two times of 64 bits before the field.
    return {
      mediaType: `video/mp4; codecs="${codec}, mp4a.40.2"`,
      videoTrack: view.getUint32(tkhd.start + (view.getUint8(tkhd.start) ? 20 : 12)),
      timescale: view.getUint32(mdhd.start + (view.getUint8(mdhd.start) ? 20 : 12)),
    };
  }
  return null;
}

/** @param {Uint8Array} track */
function avcCodec(track) {
  for (let at = 0; at + 8 <= track.length; at++) { // inside `stsd`, whose entries are no plain boxes
    if (track[at] === 0x61 && track[at + 1] === 0x76 && track[at + 2] === 0x63 && track[at + 3] === 0x43) {
      const digits = [...track.subarray(at + 5, at + 8)];
      return `avc1.${digits.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
    }
  }
  return null;
}

/**
 * Returns where the last picture of a part of the file starts, in milliseconds of the file.
 * @param {Uint8Array} part Whole fragments.
 * @param {Header} header
 * @returns {number} NaN if the part has no picture.
 */
export function lastPictureMs(part, { videoTrack, timescale }) {
  const view = viewOf(part);
  let found = NaN;
  for (const track of find(view, ["moof", "traf"])) {
    const [tfhd] = find(view, ["tfhd"], track), [tfdt] = find(view, ["tfdt"], track);
    const [trun] = find(view, ["trun"], track);
    if (!tfhd || !tfdt || !trun || view.getUint32(tfhd.start + 4) !== videoTrack) continue;
    const flags = view.getUint32(tfhd.start) & 0xffffff;
    const at = tfhd.start + 8 + (flags & HAS_BASE_DATA_OFFSET ? 8 : 0) + (flags & HAS_DESCRIPTION ? 4 : 0);
    const duration = flags & HAS_DURATION ? view.getUint32(at) : 0;
    const start = view.getUint8(tfdt.start)
      ? Number(view.getBigUint64(tfdt.start + 4)) : view.getUint32(tfdt.start + 4);
    found = (start + (view.getUint32(trun.start + 4) - 1) * duration) * 1000 / timescale;
  }
  return found;
}
