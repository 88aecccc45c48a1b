"""python -m fastmix.train CONFIG [key=value ...] [--resume]: trains a model and leaves a run folder.

The folder holds config.yaml (resolved) and versions.json, log.jsonl, last.pt and best.pt, a picture of the first mixed
batch, and model.safetensors, which timm.create_model(..., checkpoint_path=...) loads.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fastmix import cli, config


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.train", description="Train a model from a config.")
    parser.add_argument("config", help="a YAML file, such as configs/r50_300ep.yaml")
    parser.add_argument("settings", nargs="*", help="key=value over the file, such as mix=cutmix optim.lr=0.2")
    parser.add_argument("--resume", action="store_true", help="continue the run in its folder, or begin it")
    parser.add_argument("--dry-run", action="store_true", help="print what the run would be, without data, and end")
    parser.add_argument("--quiet", action="store_true", help="tell warnings and the result only")
    args = parser.parse_intermixed_args(argv)
    cfg = config.load(args.config, args.settings)
    if not args.dry_run:
        from fastmix.engine.training import Failed, train

        try:
            reached = train(cfg, Path(args.config).stem, args.resume, args.quiet)
        except Failed as error:
            if os.environ.get("FASTMIX_TRACEBACK"):
                raise
            print(f"fastmix train: error: {error}", file=sys.stderr)
            return 1
        print(reached or "", end="\n" * bool(reached))
        return cli.TRY_AGAIN if reached is None else 0

    from fastmix import distributed
    from fastmix.engine import dryrun

    found = dryrun.describe(cfg)
    if distributed.rank() == 0:
        print(dryrun.text(found))
    distributed.close()
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "train"))
