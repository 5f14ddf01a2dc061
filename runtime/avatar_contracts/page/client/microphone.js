/** The microphone: echo cancellation by the browser, samples at the rate of the session. */

import { SessionError } from "./errors.js";
import { level, RATE, toPcm16 } from "./pcm.js";
import { Resampler } from "./resampler.js";

const REFUSALS = /** @type {Record<string, readonly [string, string]>} */ ({
  NotAllowedError: ["microphone_refused", "The browser does not let this page use the microphone."],
  NotFoundError: ["microphone_missing", "No microphone was found."],
  NotReadableError: ["microphone_busy", "Another program uses the microphone."],
});

/**
 * Asks the user for the microphone.
 * @returns {Promise<MediaStream>}
 * @throws {SessionError} There is no microphone, or the user refuses it.
 */
export async function requestMicrophone() {
  if (!navigator.mediaDevices) {
    throw new SessionError("microphone_insecure", "The microphone needs a page over HTTPS.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
  } catch (error) {
    const [code, message] = REFUSALS[/** @type {Error} */ (error).name]
      ?? ["microphone_failed", "The microphone cannot be used."];
    throw new SessionError(code, message, { cause: error });
  }
}

export class Microphone {
  /**
   * Starts to capture.
   * @param {(samples: Int16Array, level: number) => void} onSamples 20 ms, and their level (0 to 1).
   * @param {MediaStream} [given] Stays open at the end.
   * @returns {Promise<Microphone>}
   * @throws {SessionError} There is no microphone, or the user refuses it.
   */
  static async open(onSamples, given) {
    const stream = given ?? await requestMicrophone();
    // Some browsers connect a microphone only to a context of its own rate.
    const context = new AudioContext({ latencyHint: "interactive" });
    try {
      await context.audioWorklet.addModule(new URL("./capture-worklet.js", import.meta.url));
      await context.resume();
      return new Microphone(context, stream, !given, onSamples);
    } catch (error) {
      await context.close();
      throw error;
    }
  }

  /**
   * @param {AudioContext} context
   * @param {MediaStream} stream
   * @param {boolean} isOwn
   * @param {(samples: Int16Array, level: number) => void} onSamples
   */
  constructor(context, stream, isOwn, onSamples) {
    this.context = context;
    this.stream = stream;
    this.isOwn = isOwn;
    const resampler = new Resampler(context.sampleRate, RATE);
    this.source = context.createMediaStreamSource(stream);
    this.node = new AudioWorkletNode(context, "avatar-capture", {
      channelCount: 1, channelCountMode: "explicit", numberOfOutputs: 0,
    });
    this.node.port.onmessage = ({ data }) => {
      const samples = toPcm16(resampler.push(data));
      onSamples(samples, level(samples));
    };
    this.source.connect(this.node);
  }

  /** Ends the capture; the browser shows that the microphone is off. */
  async close() {
    this.source.disconnect();
    this.node.port.onmessage = null;
    if (this.isOwn) for (const track of this.stream.getTracks()) track.stop();
    await this.context.close();
  }
}
