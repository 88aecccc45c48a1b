"""python -m fastmix.migrate FILE [--out OUT.yaml]: a config of OpenMixup (.py) or timm's args.yaml as one of fastmix.

What has no equivalent is a line on stderr, and a comment at the top of the YAML (docs/migrate.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastmix import cli, files


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.migrate", description="Another program's config in this one's words.")
    parser.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="a config of OpenMixup (.py), which is read and not run, or the args.yaml that timm's train.py saves",
    )
    parser.add_argument("--out", metavar="OUT.yaml", type=Path, help="(standard output)")
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="processes that it trained with (OpenMixup: as its name says; timm: 1)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.yaml")
    args = parser.parse_args(argv)
    if args.out:
        files.check_free(args.out, args.overwrite)

    from fastmix.migration import migrate

    text, notes = migrate(args.file, args.gpus)
    for note in notes:
        print(note, file=sys.stderr)
    if args.out:
        files.write_text(args.out, text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "migrate"))
