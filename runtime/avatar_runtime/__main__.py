"""Command line: `serve`, `lipsync`, `prepare`, `convert`, `cache-model`, `bench` and others."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import descriptors, exit_status, labels, logs
from avatar_contracts.tls import CertificateError
from avatar_runtime import cpus, model_lock, settings
from avatar_runtime.errors import AvatarRuntimeError, SettingsError, is_permanent
from avatar_runtime.preparation import arguments as preparation

if TYPE_CHECKING:
    from collections.abc import Sequence

# uvicorn logs each connection, and its address may contain the query of a client.
LOG_LEVELS: Final = {"uvicorn": logging.WARNING}
_JOB_COMMANDS: Final = ("prepare", "prepare-job", "fetch", "cache-model")
"""Their exit status says whether another attempt may succeed."""
_DEVICE_HELP = "cpu, cuda or simulated:CLASS; default: cuda if available"

# Torch takes seconds to import, and a simulated device or `drain` does not need it: each command
# imports the modules that load torch itself.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 if it succeeded."""
    options = _parser().parse_args(arguments)
    cpus.limit_libraries(cpus.find(), os.environ)
    try:
        match options.command:
            case "serve":
                return _serve(options)
            case "lipsync":
                return _lipsync(options)
            case "prepare":
                return _prepare(options)
            case "convert":
                return _convert(options)
            case "lookahead":
                return _lookahead(options)
            case "fetch":
                return _fetch(options)
            case "cache-model":
                return _cache_model(options)
            case "prepare-job":
                return _prepare_job(options)
            case "bench":
                return _bench(options)
            case _:
                return _drain(options)
    except (AvatarRuntimeError, CertificateError, OSError) as error:
        print(f"avatar-runtime: {error}", file=sys.stderr)
        if isinstance(error, SettingsError | CertificateError):
            return exit_status.USAGE
        if options.command not in _JOB_COMMANDS:
            return 1
        return exit_status.WRONG_INPUT if is_permanent(error) else exit_status.TEMPORARY


def _serve(options: argparse.Namespace) -> int:
    from avatar_runtime.engine.device import ModelOptions
    from avatar_runtime.engine.devices.factory import open_device
    from avatar_runtime.engine.engine import Engine
    from avatar_runtime.metrics import Metrics
    from avatar_runtime.serving.runtime import Runtime
    from avatar_runtime.serving.server import serve
    from avatar_runtime.upstream import document as upstream_document

    given = {
        "AVATAR_MODEL": options.model,
        "AVATAR_AVATAR_FOLDER": options.avatars,
        "AVATAR_DEVICE": options.device,
        "AVATAR_PRECISION": options.precision,
        "AVATAR_DECODER": options.decoder,
        "AVATAR_BATCH_SIZE": options.batch_size,
        "AVATAR_LISTEN": options.listen,
        "AVATAR_ADMIN": options.admin,
        "AVATAR_PREPARE": "true" if options.prepare else None,
        "AVATAR_TLS_CERTIFICATE": options.tls_certificate,
        "AVATAR_TLS_KEY": options.tls_key,
        labels.ENV_UPSTREAM: upstream_document.load(options.upstream),
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    read = settings.from_env({**os.environ, **overrides})
    logs.configure(read.log_format, LOG_LEVELS)
    descriptors.raise_limit()
    allowed = cpus.find()
    device = open_device(
        read.engine.device,
        profile=read.engine.gpu_profile,
        neighbour=read.engine.simulated_neighbour or None,
        options=ModelOptions(
            read.engine.precision, read.engine.decoder, read.engine.verify, read.engine.version
        ),
    )
    metrics = Metrics(device.name, read.identity.gpu_class)
    metrics.set_cpus(allowed)
    engine = Engine(
        device,
        Path(read.engine.model),
        Path(read.engine.avatars),
        read.engine.batch_size,
        avatar_names=read.sessions.avatars or None,
        observe=metrics.observe_stage,
    )
    model_lock.hold(Path(read.engine.model))  # until the process ends
    model_lock.hold(Path(read.engine.avatars))
    asyncio.run(serve(lambda: Runtime(read, engine, metrics)))
    return 0


def _lipsync(options: argparse.Namespace) -> int:
    from avatar_runtime.audio.utterance import AudioOptions
    from avatar_runtime.engine.device import ModelOptions
    from avatar_runtime.engine.devices.factory import open_device
    from avatar_runtime.tools import lipsync

    audio = settings.audio(os.environ)
    model_options = ModelOptions(options.precision, options.decoder or "sd-vae")
    result = lipsync.run(
        open_device(options.device or settings.device(os.environ), options=model_options),
        options.model,
        options.avatar,
        options.audio,
        options.out,
        frames_dir=options.frames_dir,
        audio_options=AudioOptions(audio.lookahead_ms, audio.silence_dbfs),
    )
    print(json.dumps(result))
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from avatar_runtime.preparation import command

    outcome = command.run(options)
    is_result = outcome.status != command.INTERRUPTED
    print(outcome.text, file=sys.stdout if is_result else sys.stderr)
    return outcome.status


def _convert(options: argparse.Namespace) -> int:
    from avatar_runtime.tools import convert

    manifest = convert.convert(options.model, options.out, options.version)
    print(json.dumps(manifest))
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from avatar_runtime.tools import fetch, job_result

    hosts = tuple(host.lower() for host in options.allow_host)
    request = fetch.Request(options.url, options.sha256.lower(), options.max_bytes, hosts)
    try:
        size = fetch.fetch(request, options.out)
    except (AvatarRuntimeError, OSError) as error:
        result = job_result.failed(str(error), permanent=is_permanent(error))
        job_result.write(options.message, result)
        raise
    print(json.dumps({"bytes": size}))
    return 0


def _cache_model(options: argparse.Namespace) -> int:
    from avatar_runtime.tools import model_cache

    logs.configure(settings.log_format(os.environ), LOG_LEVELS)
    request = model_cache.Request(
        url=options.url,
        sha256=options.sha256.lower(),
        hosts=tuple(host.lower() for host in options.allow_host),
        max_bytes=options.max_bytes,
        authorization=os.environ.get(labels.ENV_DOWNLOAD_AUTHORIZATION, ""),
    )
    result = model_cache.ModelCache(options.cache, request).ensure()
    print(json.dumps(model_cache.summary(result)))
    return 0


def _prepare_job(options: argparse.Namespace) -> int:
    from avatar_runtime.tools import prepare_job

    arguments = options.arguments
    return prepare_job.run(arguments[1:] if arguments[:1] == ["--"] else arguments, options.message)


def _lookahead(options: argparse.Namespace) -> int:
    from avatar_runtime.tools import lookahead

    lookaheads_ms = [int(ms) for ms in settings.LOOKAHEADS_MS]
    document = lookahead.run(options.model, options.avatar, options.audio, lookaheads_ms)
    print(lookahead.table(document))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from avatar_runtime.tools.benchmark import report

    if options.read is None:
        document = _measured(options)
    else:
        document = json.loads(options.read.read_text(encoding="utf-8"))
    print(report.table(document))
    if options.json is not None:
        _write(options.json, json.dumps(document, indent=2) + "\n")
    if options.plot is not None:
        _write(options.plot, report.svg(document))
    return 0


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    from avatar_runtime.engine.device import ModelOptions
    from avatar_runtime.engine.devices.factory import open_device
    from avatar_runtime.tools.benchmark import measuring
    from avatar_runtime.tools.benchmark.plan import Plan

    decoder = options.decoder or "sd-vae"
    device = open_device(
        options.device or settings.device(os.environ),
        options=ModelOptions(options.precision, decoder),
    )
    plan = Plan(
        options.preset,
        options.batch_size or (64 if device.pads else 8),
        options.sessions,
        options.frames,
        decoder=decoder,
        autograd=options.autograd,
    )
    return measuring.run(device, plan)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _drain(options: argparse.Namespace) -> int:
    from avatar_runtime.serving import drain_hook
    from avatar_runtime.serving.pod_tokens import PodTokens

    read = settings.drain_from_env(os.environ)
    token = next(iter(PodTokens(read.admin).control()), "")
    control = drain_hook.Control(options.url or read.url, token)
    left = drain_hook.run(control, read.timeout_s if options.wait else 0.0)
    print(json.dumps({"sessions": left}))
    return 0 if not options.wait or left == 0 else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="avatar-runtime", description=__doc__)
    version = importlib.metadata.version("avatar-service")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve sessions")
    serve.add_argument("--model", metavar="DIR", help="folder with the upstream layout")
    serve.add_argument("--avatars", metavar="DIR", help="folder with one sub-folder per avatar")
    serve.add_argument(
        "--device",
        metavar="NAME",
        help="cpu, cuda or simulated:CLASS; default: cuda if available",
    )
    _add_model_options(serve)
    serve.add_argument("--batch-size", metavar="N", help="number of frames in the largest batch")
    serve.add_argument("--listen", metavar="HOST:PORT", help="for sessions, page and probes")
    serve.add_argument("--admin", metavar="HOST:PORT", help="for metrics and control")
    serve.add_argument("--tls-certificate", metavar="FILE", help="PEM file to serve TLS with")
    serve.add_argument("--tls-key", metavar="FILE", help="private key of the certificate")
    serve.add_argument(
        "--prepare",
        action="store_true",
        help="let the page prepare avatars; needs a loopback --listen and a writable --avatars",
    )
    serve.add_argument(
        "--upstream",
        metavar="FILE",
        type=Path,
        help="YAML or JSON as spec.upstream of a service; keys are in variables (apiKeyEnv)",
    )
    lipsync = commands.add_parser("lipsync", help="make a video from an audio file")
    lipsync.add_argument("--model", metavar="DIR", type=Path, required=True)
    lipsync.add_argument("--avatar", metavar="DIR", type=Path, required=True)
    lipsync.add_argument("--audio", metavar="WAV", type=Path, required=True)
    lipsync.add_argument("--out", metavar="MP4", type=Path, required=True)
    lipsync.add_argument("--frames-dir", metavar="DIR", type=Path)
    lipsync.add_argument(
        "--device",
        metavar="NAME",
        help="cpu, cuda or simulated:CLASS; default: cuda if available",
    )
    _add_model_options(lipsync)
    prepare = commands.add_parser("prepare", help="make an avatar from a video or a photo")
    preparation.add_arguments(prepare)
    convert = commands.add_parser("convert", help="check a model and write it as safetensors")
    convert.add_argument("--model", metavar="DIR", type=Path, required=True)
    convert.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to create")
    convert.add_argument("--version", choices=("v15", "v1"), help="default: the newest version")
    lookahead = commands.add_parser(
        "lookahead", help="compare a session with the whole clip, by look-ahead"
    )
    lookahead.add_argument("--model", metavar="DIR", type=Path, required=True)
    lookahead.add_argument("--avatar", metavar="DIR", type=Path, required=True)
    lookahead.add_argument("--audio", metavar="WAV", type=Path, required=True)
    lookahead.add_argument("--json", metavar="FILE", type=Path, help="file to write the result to")
    bench = commands.add_parser("bench", help="measure the engine with seeded random weights")
    bench.add_argument("--preset", choices=("tiny", "full"), default="tiny")
    bench.add_argument("--device", metavar="NAME", help=_DEVICE_HELP)
    _add_model_options(bench)
    bench.add_argument("--json", metavar="FILE", type=Path, help="file to write the result to")
    bench.add_argument("--plot", metavar="SVG", type=Path, help="file to write the plot to")
    bench.add_argument(
        "--from",
        dest="read",
        metavar="FILE",
        type=Path,
        help="show the result of an earlier run instead of measuring",
    )
    bench.add_argument(
        "--autograd",
        action="store_true",
        help="on CUDA: also measure the memory with gradients enabled",
    )
    bench.add_argument(
        "--batch-size", metavar="N", type=_positive, help="default: 8, or 64 on GPUs"
    )
    bench.add_argument("--sessions", metavar="N", type=_positive, default=8)
    bench.add_argument(
        "--frames", metavar="N", type=_positive, default=50, help="frames per session and turn"
    )
    _add_job_commands(commands)
    drain = commands.add_parser("drain", help="refuse new sessions, as the preStop hook does")
    drain.add_argument("--wait", action="store_true", help="wait until the last session has ended")
    drain.add_argument("--url", metavar="URL", help="default: the admin listener of this pod")
    return parser


def _add_job_commands(commands: Any) -> None:
    """Add the commands of the Jobs that prepare avatars."""
    fetch = commands.add_parser("fetch", help="download a file of an allowed host")
    _add_download(fetch, 1 << 30)
    fetch.add_argument("--out", metavar="FILE", type=Path, required=True)
    _add_message(fetch)
    cached = commands.add_parser(
        "cache-model", help="verify a model in a shared folder, and download what is missing"
    )
    _add_download(cached, 20 << 30)
    cached.add_argument("--cache", metavar="DIR", type=Path, required=True)
    job = commands.add_parser("prepare-job", help="run prepare, and leave its result in a file")
    _add_message(job)
    job.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and those of prepare")


def _add_download(parser: argparse.ArgumentParser, max_bytes: int) -> None:
    parser.add_argument("--url", metavar="URL", required=True)
    parser.add_argument("--sha256", metavar="HEX", required=True)
    parser.add_argument("--max-bytes", metavar="N", type=_positive, default=max_bytes)
    parser.add_argument(
        "--allow-host",
        metavar="HOST",
        action="append",
        default=[],
        help="may be repeated; *.example.com allows all public hosts below it; default: none",
    )


def _add_message(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--message",
        metavar="FILE",
        type=Path,
        help="file for the result as JSON of at most 4096 bytes, for example the termination log",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        metavar="NAME",
        choices=("fp32", "bf16", "fp16"),
        help="fp32, bf16 or fp16; default: fp16 on cuda, fp32 on cpu",
    )
    parser.add_argument(
        "--decoder",
        metavar="NAME",
        choices=("sd-vae", "taesd"),
        help="sd-vae, or taesd, which is faster and gives other images; default: sd-vae",
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not an integer of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
