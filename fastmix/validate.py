"""python -m fastmix.validate RUN [key=value ...]: top-1 and top-5 of a trained run's weights on validation data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fastmix import cli, config


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.validate", description="Validate a run.")
    parser.add_argument("run", type=Path, help="a run folder of fastmix.train")
    parser.add_argument("settings", nargs="*", help="key=value over its config, such as data.val=FILE")
    parser.add_argument("--checkpoint", default="last", choices=("last", "best"))
    parser.add_argument("--json", type=Path, help="write the result here too")
    args = parser.parse_args(argv)
    if not (args.run / "config.yaml").is_file():
        raise ValueError(f"{args.run}: no run folder (no config.yaml in it)")
    result = validate(args.run, args.checkpoint, args.settings)
    print(", ".join(f"{k} {v:.2f} %" if k.endswith(("top1", "top5")) else f"{k} {v:.4g}" for k, v in result.items()))
    if args.json:
        args.json.write_text(json.dumps(result) + "\n", encoding="utf-8")
    return 0


def validate(run: Path, checkpoint: str = "last", settings: list[str] = ()) -> dict[str, float]:
    """top1, top5 (percent), loss and images of a run's checkpoint; ema_* too where it has an average."""
    from fastmix import dist, loaders, mixers, models
    from fastmix.evaluate import evaluate
    from fastmix.state import read
    from fastmix.task import Task

    cfg = config.load(run / "config.yaml", settings)
    device = dist.init(cfg.device)
    content = read(run / f"{checkpoint}.pt")
    val = loaders.validation(cfg, device)
    model = models.build(cfg.model, loaders.classes(cfg, val), cfg.seed, device)
    task = Task(model, mixers.MIXERS["vanilla"](), cfg).to(device)
    weights = {k.removeprefix("model."): v for k, v in content["task"].items() if k.startswith("model.")}
    result = evaluate(_loaded(model, weights, run), task, val)
    if "ema" in content:
        average = evaluate(_loaded(model, content["ema"], run), task, val)
        result |= {f"ema_{k}": v for k, v in average.items() if k != "images"}
    dist.close()
    return result


def _loaded(model, weights: dict, run: Path):
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{run}: the weights do not fit the model: {str(error).splitlines()[-1].strip()}") from None
    return model


if __name__ == "__main__":
    sys.exit(cli.run(main, "validate"))
