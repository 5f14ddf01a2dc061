"""`python -m localcluster.images`: builds the images of this checkout into build/images/."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from localcluster import errors, paths
from localcluster.images import builder, recipes, store


def main() -> int:
    """Build the named images, all of them by default."""
    names = [recipe.name for recipe in recipes.RECIPES]
    parser = argparse.ArgumentParser(prog="localcluster.images", description=__doc__)
    parser.add_argument("image", nargs="*", metavar="IMAGE", help=f"one of {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=paths.REPOSITORY / "build" / "images")
    parser.add_argument("--check", action="store_true", help="build twice and compare the layers")
    parser.add_argument("--gpu", action="store_true", help="the runtime with CUDA, several GB")
    arguments = parser.parse_args()
    unknown = set(arguments.image) - set(names)
    if unknown:
        parser.error(f"IMAGE is {', '.join(sorted(unknown))}, must be one of {', '.join(names)}")
    try:
        store.check_machine()
        with store.opened(os.environ) as opened:
            opened.ensure_base()
            release = recipes.read_release(paths.REPOSITORY)
            built = builder.Builder(opened, paths.REPOSITORY, arguments.out, release, print)
            for recipe in recipes.RECIPES:
                if arguments.image and recipe.name not in arguments.image:
                    continue
                with_gpu = arguments.gpu and recipe.name == recipes.GPU_RUNTIME.name
                built.build(recipes.GPU_RUNTIME if with_gpu else recipe, check=arguments.check)
    except errors.LocalClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
