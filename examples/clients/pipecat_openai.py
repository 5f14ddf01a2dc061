"""pipecat-ai: three turns of a microphone through a pipeline with its realtime service.

Usage: python pipecat_openai.py ws://127.0.0.1:8080 SPEECH.wav
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import wave

from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    TTSAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

TURNS = 3


class Speaker(FrameProcessor):
    """Takes the place of a loudspeaker."""

    def __init__(self) -> None:
        super().__init__()
        self.result = {"turns": 0, "sound_bytes": 0, "errors": []}
        self.done = asyncio.Event()
        self._is_answer_open = False

    async def process_frame(self, frame, direction) -> None:
        """Count what the service says."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.result["sound_bytes"] += len(frame.audio)
        elif isinstance(frame, ErrorFrame):
            self.result["errors"].append(frame.error)
        elif isinstance(frame, LLMFullResponseStartFrame):
            self._is_answer_open = True
        elif isinstance(frame, LLMFullResponseEndFrame) and self._is_answer_open:
            # An interruption ends an answer, too, which then ends a second time.
            self._is_answer_open = False
            self.result["turns"] += 1
            if self.result["turns"] == TURNS:
                self.done.set()
        await self.push_frame(frame, direction)


async def main(server: str, path: str) -> None:
    """Speak a file of 24 kHz, and print how many turns were answered."""
    service = OpenAIRealtimeLLMService(
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        base_url=f"{server}/v1/realtime",
        settings=OpenAIRealtimeLLMService.Settings(
            model=os.environ.get("AVATAR_MODEL", "default/concierge"),
        ),
    )
    speaker = Speaker()
    context = LLMContextAggregatorPair(LLMContext())
    pipeline = Pipeline([context.user(), service, speaker, context.assistant()])
    task = PipelineTask(pipeline, params=PipelineParams(audio_in_sample_rate=24000))

    @task.event_handler("on_pipeline_error")
    async def on_error(_, frame) -> None:
        speaker.result["errors"].append(frame.error)

    speaking = asyncio.create_task(speak(task, path))
    running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
    await speaker.done.wait()
    speaking.cancel()
    await task.cancel()
    await running
    print(json.dumps(speaker.result))


async def speak(task, path: str) -> None:
    """Send a file as a microphone does: in pieces of 100 ms, and then silence."""
    with wave.open(path) as file:
        while True:
            audio = file.readframes(2400) or bytes(4800)
            await task.queue_frame(InputAudioRawFrame(audio, 24000, 1))
            await asyncio.sleep(0.1)


asyncio.run(main(*sys.argv[1:]))
