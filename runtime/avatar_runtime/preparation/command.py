"""The command `avatar-runtime prepare`: checks of the output, the parts, and the result."""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import exit_status, labels
from avatar_runtime import errors
from avatar_runtime.avatars import field_rules, work_folder
from avatar_runtime.engine.networks import weights
from avatar_runtime.preparation import given_files, quality

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from avatar_runtime.preparation.pipeline import Job, Options

REFUSED: Final = exit_status.WRONG_INPUT
"""Exit status if the clip is refused."""
INTERRUPTED: Final = 130
"""Exit status after SIGINT, as shells report it."""
_SHOWN: Final = 80  # characters of a wrong text that a message repeats


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the command prints and returns."""

    status: int
    text: str


def run(options: argparse.Namespace) -> Outcome:
    """Prepare an avatar and return its report.

    Raises:
        AvatarRuntimeError: an argument or an input is unusable.
        OSError: a file cannot be read or written.
    """
    out = options.out.resolve()
    check_text(options.consent, options.disclosure)
    check_output(out, force=options.force)
    check_inputs(options)
    try:
        # Before torch and the detectors, which take seconds to load.
        given = _imported(options) if options.from_upstream else _opened(options)
        from avatar_runtime.preparation import pipeline, progress, report

        with progress.shown() as shown:
            document = pipeline.run(_job(options, out, given), shown)
    except KeyboardInterrupt:
        return Outcome(INTERRUPTED, "interrupted; the same command continues")
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        fault = "the disk is full; free some space, then the same command continues"
        raise errors.AssetError(str(work_folder.path_of(out)), fault) from error
    refused = document["verdict"] == quality.Grade.REFUSED.value
    text = json.dumps(document) if options.json else report.text(document)
    return Outcome(REFUSED if refused else 0, text)


def check_text(consent: str, disclosure: str) -> None:
    """Check the texts that the manifest keeps.

    Raises:
        AssetError: a text is empty, too long, or has control characters.
    """
    if not field_rules.is_note(consent):
        limit = f"must be text of at most {field_rules.MAX_TEXT} characters"
        raise errors.AssetError("--consent", f"has {len(consent)} characters, {limit}")
    is_label, expected = field_rules.text(labels.MAX_DISCLOSURE)
    if not is_label(disclosure):
        raise errors.AssetError("--disclosure", f"is {_shown(disclosure)}, must be {expected}")
    if not consent.strip():
        raise errors.AssetError("--consent", "is empty, must say who allowed the use of the face")


def check_output(out: Path, *, force: bool) -> None:
    """Check that the avatar can be written, before any work is done.

    Raises:
        AssetError: the name is wrong, the parent is not a writable folder, or an avatar exists.
    """
    if not field_rules.is_folder_name(out.name):
        fault = f"the name {_shown(out.name)} {field_rules.FOLDER_NAME_LIMIT}"
        raise errors.AssetError("--out", fault)
    if not out.parent.is_dir():
        raise errors.AssetError(str(out.parent), "is not a folder; create it first")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise errors.AssetError(str(out.parent), "is not writable")
    if not out.exists():
        return
    if not (out / "manifest.json").is_file():
        raise errors.AssetError(str(out), "exists and is not an avatar; name another folder")
    if not force:
        raise errors.AssetError(str(out), "exists; --force replaces it")


def check_inputs(options: argparse.Namespace) -> None:
    """Check the files that the arguments name, and that the version uses the box shift.

    Raises:
        AssetError: a file is missing, the model is incomplete, or the version has no box shift.
    """
    version = weights.find(options.model, options.version).version
    if options.bbox_shift and version != "v1":
        fault = f"is {options.bbox_shift}, must be 0 for a model of version {version}: v1 alone"
        raise errors.AssetError("--bbox-shift", f"{fault} moves the box")
    for path in (options.dwpose, options.face_parser, options.sound):
        if path is not None:
            given_files.require_file(path)
    if options.from_upstream is not None:
        given_files.require_folder(options.from_upstream)


def _shown(text: str) -> str:
    """Return a text in quotes, cut to 80 characters."""
    if len(text) <= _SHOWN:
        return repr(text)
    return f"{text[:_SHOWN]!r}... ({len(text)} characters)"


def _job(options: argparse.Namespace, out: Path, given: dict[str, Any]) -> Job:
    from avatar_runtime.preparation import idle, loaded_model, pipeline

    warnings = loaded_model.warnings(options.model, options.version)
    model = loaded_model.load(
        options.model, options.device, options.precision, options.version, options.sound
    )
    found = {} if options.from_upstream else _detected(options, model.model.version)
    return pipeline.Job(
        out=out,
        model=model,
        options=_options(options),
        open_mouths=idle.open_mouths,
        warnings=warnings,
        resume=options.resume,
        **given,
        **found,
    )


def _opened(options: argparse.Namespace) -> dict[str, Any]:
    from avatar_runtime.preparation import alpha, source, sources
    from avatar_runtime.preparation.sources import shaping, watchdog

    watchdog.install(_end_process)
    selection = source.SourceOptions(
        start=options.start,
        end=options.end,
        crop=options.crop,
        background=options.background,
    )
    opened = sources.open(options.source, selection)
    mattes = None
    if shaping.TRANSPARENT in opened.info.notes:
        over_black, over_white = (
            sources.open(options.source, replace(selection, background=colour))
            for colour in (alpha.BLACK, alpha.WHITE)
        )
        mattes = alpha.DifferenceMattes(over_black, over_white)
    return {"source": opened, "record": opened.info.record(), "mattes": mattes}


def _end_process(path: Path, seconds: float) -> None:
    """End this process: a decoder does not return. What is finished stays for the next run."""
    fault = f"takes over {seconds:g} s to decode one picture"
    sys.stderr.write(f"\navatar-runtime: {path}: {fault}\n")
    sys.stderr.flush()
    os._exit(exit_status.TEMPORARY)


def _detected(options: argparse.Namespace, version: str) -> dict[str, Any]:
    from avatar_runtime.preparation import detectors, locating, masking

    detector = detectors.open_detector(options.dwpose)
    parser = detectors.open_parser(options.face_parser)
    mode = options.mask_mode or ("jaw" if version == "v15" else "raw")
    return {
        "locator": locating.DetectingLocator(detector, version, options.bbox_shift),
        "masker": masking.ParsedMasks(
            parser=parser,
            mode=mode,
            upper_boundary_ratio=options.upper_boundary,
            cheek_width=options.cheek_width,
        ),
        "tools": {"detector": detector.name, "parser": parser.name},
    }


def _imported(options: argparse.Namespace) -> dict[str, Any]:
    from avatar_runtime.preparation import from_upstream, given_source, locating, masking

    ignored = [
        name
        for name in ("start", "end", "crop", "dwpose", "face_parser", "mask_mode")
        if getattr(options, name) is not None
    ]
    if ignored:
        flag = "--" + ignored[0].replace("_", "-")
        raise errors.AssetError(flag, "cannot be used with --from-upstream")
    folder = options.from_upstream
    found = from_upstream.read(folder)
    sha256 = from_upstream.sha256(found)
    opened = given_source.GivenSource(folder.name, sha256, found.pictures, found.notes)
    info = opened.info
    return {
        "source": opened,
        "record": {**info.record(), "kind": "upstream"},
        "locator": locating.GivenLocator(found.boxes),
        "masker": masking.StoredMasks(found.masks, found.boxes),
        "tools": {"detector": "upstream", "parser": "upstream"},
        "crops": found.crops,
        "notes": ["angles, landmarks and the mouth were not checked: the boxes were imported"],
    }


def _options(options: argparse.Namespace) -> Options:
    from avatar_runtime.preparation import pipeline

    return pipeline.Options(
        consent=options.consent.strip(),
        disclosure=options.disclosure,
        mask_mode=options.mask_mode,
        upper_boundary_ratio=options.upper_boundary,
        cheek_width=options.cheek_width,
        bbox_shift=options.bbox_shift,
        background=options.background,
        pixels=options.pixels,
        face_resize=options.face_resize,
        smoothing=0.0 if options.from_upstream else options.smoothing,
        batch_size=options.batch_size,
    )
