/** Sessions of an AvatarService: see README.md. */
export { describeClose } from "./close-codes.js";
export { requestClientSecret } from "./credentials.js";
export { requestMicrophone } from "./microphone.js";
export { fromWav, toPcm16 } from "./pcm.js";
export { SessionError } from "./errors.js";
export { createSession, Session } from "./session.js";
