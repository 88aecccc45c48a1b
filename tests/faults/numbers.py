"""Numbers out of their range, and values of the wrong kind: one line with key, value and range, in every command."""

from __future__ import annotations

from pathlib import Path

from faults.harness import CONFIG, Fault, nothing

COMMANDS = {
    "train": "fastmix.train {{config}} {}",
    "dry run": "fastmix.train {{config}} {} --dry-run",
    "sweep": "fastmix.sweep {{config}} {}",
    "validate": "fastmix.validate run {}",
}

EVERYWHERE = [  # setting, and what the line says
    ("loss.smoothing=1.5", "loss.smoothing is 1.5; it must be a number from 0 to below 1"),
    ("optim.clip=-1", "optim.clip is -1; it must be a number above 0"),
    ("seed=-5", "seed is -5; it must be a whole number from 0 to"),
    ("data.std=[0,0,0]", "data.std is 0; it must be a number from 0.001 to 10"),
]

ONCE = [
    ("erase.prob=2", "erase.prob is 2; it must be a number from 0 to 1"),
    ("erase.prob=.nan", "erase.prob is nan; it must be a number from 0 to 1"),
    ("erase.std=[1,2,-3]", "erase.std is -3; it must be a number from 0 to 255"),
    ("schedule.warmup_epochs=-3", "schedule.warmup_epochs is -3; it must be a number from 0 to"),
    ("schedule.warmup_factor=2", "schedule.warmup_factor is 2; it must be a number from 0 to 1"),
    ("schedule.min_lr=-1", "schedule.min_lr is -1; it must be a number from 0 to"),
    ("data.workers=-1", "data.workers is -1; it must be a whole number from 1 to"),
    ("data.workers=0", "data.workers is 0; it must be a whole number from 1 to"),
    ("data.workers=1000000", "data.workers is 1000000; it must be a whole number from 1 to"),
    ("precise_bn=-5", "precise_bn is -5; it must be a whole number from 0 to"),
    ("data.repeats=100000", "data.repeats is 100000; it must be a whole number from 1 to"),
    ("data.repeats=0", "data.repeats is 0; it must be a whole number from 1 to"),
    ("epochs=100000000000000000000000", "epochs is 100000000000000000000000; it must be a whole number from 1 to"),
    ("epochs=0", "epochs is 0; it must be a whole number from 1 to"),
    ("epochs=-1", "epochs is -1; it must be a whole number from 1 to"),
    ("epochs=1.5", "epochs is 1.5; it must be a whole number"),
    ("epochs=1e2", "epochs is 100.0; it must be a whole number"),
    ("epochs=true", "epochs is True; it must be a whole number"),
    ("epochs=", "epochs is ''; it must be a whole number"),
    ("epochs=null", "epochs is None; it must be a whole number"),
    ("epochs=[1]", "epochs is [1]; it must be a whole number"),
    ("epochs={a: 1}", "epochs is {'a': 1}; it must be a whole number"),
    ("epochs=" + "9" * 5000, "not valid YAML"),
    ("epochz=1", "unknown key 'epochz'; did you mean 'epochs'?"),
    ("seed=100000000000000000000", "seed is 100000000000000000000; it must be a whole number"),
    ("seed=1.0", "seed is 1.0; it must be a whole number"),
    ("batch_total=0", "batch_total is 0; it must be a whole number from 1 to"),
    ("batch_total=100000000000", "batch_total is 100000000000; it must be a whole number from 1 to"),
    ("batch_total=1000", "a batch of 1000 is larger than the data set of 16 images"),
    ("accum=3", "accum is 3; it must divide batch_total, which is 8"),
    ("accum=0", "accum is 0; it must be a whole number from 1 to"),
    ("log_every=0", "log_every is 0; it must be a whole number from 1 to"),
    ("save_every=-1", "save_every is -1; it must be a whole number from 0 to"),
    ("val_every=0", "val_every is 0; it must be a whole number from 1 to"),
    ("precision=fp8", "precision is 'fp8'; choose one of auto, fp32, fp16, bf16"),
    ("precision=16", "precision is 16; choose one of auto, fp32, fp16, bf16"),
    ("device=gpu", "device is 'gpu'; choose one of auto, cpu, cuda"),
    ("cuda_graph=1", "cuda_graph is 1; it must be true or false"),
    ("cuda_graph=yes", "cuda_graph is 'yes'; it must be true or false"),
    ("out=3", "out is 3; it must be text"),
    ("optim=3", "optim is 3; it must be a mapping"),
    ("optim.lr=-0.1", "optim.lr is -0.1; it must be a number from 0 to"),
    ("optim.lr=.nan", "optim.lr is nan; it must be a number from 0 to"),
    ("optim.lr=.inf", "optim.lr is inf; it must be a number from 0 to"),
    ("optim.lr=-.inf", "optim.lr is -inf; it must be a number from 0 to"),
    ("optim.lr=1e30", "optim.lr is 1e+30; it must be a number from 0 to"),
    ("optim.lr=1e999", "optim.lr is inf; it must be a number from 0 to"),
    ("optim.lr=fast", "optim.lr is 'fast'; it must be a number from 0 to"),
    ("optim.lr=true", "optim.lr is True; it must be a number from 0 to"),
    ("optim.lr=[0.1]", "optim.lr is [0.1]; it must be a number from 0 to"),
    ("optim.momentum=1", "optim.momentum is 1; it must be a number from 0 to below 1"),
    ("optim.momentum=-0.9", "optim.momentum is -0.9; it must be a number from 0 to below 1"),
    ("optim.betas=[0.9,1.0]", "optim.betas is 1.0; it must be a number from 0 to below 1"),
    ("optim.betas=[0.9]", "optim.betas is [0.9]; it must hold 2 values"),
    ("optim.betas=0.9", "optim.betas is 0.9; it must be a list of 2 values"),
    ("optim.eps=0", "optim.eps is 0; it must be a number above 0"),
    ("optim.weight_decay=-1", "optim.weight_decay is -1; it must be a number from 0 to"),
    ("optim.layer_decay=0", "optim.layer_decay is 0; it must be a number above 0"),
    ("optim.no_decay=bias", "optim.no_decay is 'bias'; it must be a list"),
    ("optim.no_decay=[1]", "optim.no_decay is 1; it must be text"),
    ("optim.name=SGD", "optim.name is 'SGD'; choose one of sgd, adamw, lamb"),
    ("optim.clip=0", "optim.clip is 0; it must be a number above 0"),
    ("optim.clip=.nan", "optim.clip is nan; it must be a number above 0"),
    ("loss.smoothing=-0.1", "loss.smoothing is -0.1; it must be a number from 0 to below 1"),
    ("loss.threshold=2", "loss.threshold is 2; it must be a number from 0 to below 1"),
    ("ema.decay=1", "ema.decay is 1; it must be a number from 0 to below 1"),
    ("ema.decay=-0.5", "ema.decay is -0.5; it must be a number from 0 to below 1"),
    ("ema.ramp_steps=-1", "ema.ramp_steps is -1; it must be a whole number from 0 to"),
    ("ema.every=0", "ema.every is 0; it must be a whole number from 1 to"),
    ("data.size=0", "data.size is 0; it must be a whole number from 8 to 4,096"),
    ("data.size=-224", "data.size is -224; it must be a whole number from 8 to 4,096"),
    ("data.size=1000000", "data.size is 1000000; it must be a whole number from 8 to 4,096"),
    ("data.size=32.0", "data.size is 32.0; it must be a whole number from 8 to 4,096"),
    ("data.val_size=0", "data.val_size is 0; it must be a whole number from 8 to 4,096"),
    ("data.val_resize=16", "data.val_resize is 16; it must be at least data.size 32, or null"),
    ("data.scale=[0.5,0.1]", "data.scale is [0.5, 0.1]; it must be values from low to high"),
    ("data.scale=[0,1]", "data.scale is 0; it must be a number above 0, at most 1"),
    ("data.scale=[]", "data.scale is []; it must hold 2 values"),
    ("data.ratio=[2,1]", "data.ratio is [2.0, 1.0]; it must be values from low to high"),
    ("data.ratio=[-1,1]", "data.ratio is -1; it must be a number from 0.01 to 100"),
    ("data.pad=-1", "data.pad is -1; it must be a whole number from 0 to"),
    ("data.pad_mode=edge", "data.pad_mode is 'edge'; choose one of zeros, reflect"),
    ("data.flip=1.1", "data.flip is 1.1; it must be a number from 0 to 1"),
    ("data.mean=[0.5,0.5]", "data.mean is [0.5, 0.5]; it must hold 3 values"),
    ("data.mean=[124,116,104]", "data.mean is 124; it must be a number from 0 to 1"),
    ("data.std=[.nan,1,1]", "data.std is nan; it must be a number from 0.001 to 10"),
    ("data.ramp=[16,0,1]", "data.ramp is 16; it must be a whole number from 32 to"),
    ("data.ramp=[32,5,1]", "data.ramp is [32, 5, 1]; its epochs must be from low to high"),
    ("data.bad=ignore", "data.bad is 'ignore'; choose one of raise, skip"),
    ("data.loader=betonn", "did you mean 'beton'"),
    ("model.classes=0", "model.classes is 0; it must be a whole number from 1 to"),
    ("model.classes=4000000000", "model.classes is 4000000000; it must be a whole number from 1 to"),
    ("model.args.drop_rate=2", "model.args.drop_rate is 2; it must be a number from 0 to below 1"),
    ("model.args.drop_path_rate=.nan", "model.args.drop_path_rate is nan; it must be a number from 0 to below 1"),
    ("model.args=3", "model.args is 3; it must be a mapping"),
    ("augment.magnitude=11", "augment.magnitude is 11; it must be a number from 0 to 10"),
    ("augment.n=0", "augment.n is 0; it must be a whole number from 1 to 16"),
    ("augment.std=-1", "augment.std is -1; it must be a number of at least 0"),
    ("augment.jitter=[-1,0,0]", "augment.jitter is -1; it must be a number from 0 to 10"),
    ("augment.fill=[0,0,256]", "augment.fill is 256; it must be a whole number from 0 to 255"),
    ("mix=vanila", "no row 'vanila'"),
    ("mixers=3", "mixers is 3; it must be a mapping"),
    ("mixers.mixup=3", "mixers.mixup: expected options such as"),
    ("mixers.mixup.alpha=-1", "alpha is -1; it must be a number from 1e-06 to 1,000,000"),
    ("mixers.mixup.alpha=0", "alpha is 0; it must be a number from 1e-06 to 1,000,000"),
    ("mixers.mixup.alpha=.nan", "alpha is nan; it must be a number from 1e-06 to 1,000,000"),
    ("mixers.mixup.alpha=1e300", "alpha is 1e+300; it must be a number from 1e-06 to 1,000,000"),
    ("mixers.mixup.alpha=true", "alpha is True; it must be a number"),
    ("mixers.mixup.alpha=[1,2]", "alpha is [1, 2]; it must be a number"),
    ("mixers.mixup.alpha=", "alpha is ''; it must be a number"),
    ("mixers.mixup.granularity=image", "granularity is 'image'; choose one of batch, sample"),
    ("mixers.mixup.beta=1", "mixup has no option 'beta'"),
    ("mixers.mixup={mixer: fmix, bank: 1000000000}", "bank is 1000000000; it must be a whole number from 1 to"),
    ("mixers.mixup={mixer: puzzlemix, blocks: 0}", "blocks is 0; it must be a whole number of 2 to 16, or a list"),
    ("mixers.mixup={mixer: puzzlemix, blocks: []}", "blocks is []; it must be a whole number of 2 to 16, or a list"),
    ("mixers.mixup={mixer: puzzlemix, labels: 9}", "labels is 9; it must be a whole number from 2 to 4"),
    ("mixers.mixup={mixer: puzzlemix, t_size: 1}", "t_size is 1"),
    ("mixers.mixup={mixer: alignmix, iterations: 1000000}", "iterations is 1000000; it must be a whole number"),
    ("mixers.mixup={mixer: automix, momentum: [2, 3]}", "momentum must be [first, last]"),
    ("mixers.mixup={mixer: automix, block: {lr: -1, min_lr: 0}}", "block.lr is -1; it must be a number from 0 to"),
    ("mixers.mixup={mixer: choice, of: {cutmix: {prob: 2}}}", "the probabilities sum to 2; they must sum to 1"),
    ("mixers.mixup={mixer: choice, of: {cutmix: {prob: -1}}}", "prob is -1; it must be a number"),
    ("mixers.mixup={mixer: choice, of: {}}", "mixers.mixup.of: expected rows"),
    ("mixers.mixup={mixer: [1]}", "no mixer [1]"),
]


def run(folder: Path) -> None:
    """A run folder that holds as much as `validate` reads before its settings."""
    (folder / "run").mkdir()
    (folder / "run/config.yaml").write_text(CONFIG.read_text())


def setting(command: str, word: str, says: str) -> Fault:
    mix = " mix=mixup" if word.startswith("mixers.mixup") else ""
    prepare = run if command == "validate" else nothing
    return Fault(f"{command} {word[:60]}", prepare, COMMANDS[command].format(f"'{word}'{mix}"), (says,))


def yaml(name: str, text: str, says: str, command: str = "fastmix.train a.yaml") -> Fault:
    return Fault(
        name, lambda folder: (folder / "a.yaml").write_bytes(text.encode("latin-1")), command, ("a.yaml", says)
    )


FAULTS = [
    Fault("a good run", nothing, "fastmix.train {config} out=a", ("done: top-1",), 0),
    Fault("a good dry run", nothing, "fastmix.train {config} --dry-run", ("steps: 2 an epoch, 2 in all",), 0),
    *(setting(command, word, says) for word, says in EVERYWHERE for command in COMMANDS),
    *(setting("train", word, says) for word, says in ONCE),
    yaml("a key twice", "epochs: 1\nepochs: 2\n", "the key 'epochs' stands twice"),
    yaml("not UTF-8", "out: \xff\n", "not a text in UTF-8"),
    yaml("a list", "- 1\n", "a config is a mapping"),
    yaml("too deep", "a: " + "[" * 5000, "not valid YAML"),
    yaml("a number as base", "base: 3\n", "base is 3; it must be text"),
    yaml("a list of numbers as base", "base: [3]\n", "base is 3; it must be text"),
    yaml("rows in a list", "rows: [a]\n", "rows is ['a']; it must be a mapping"),
    yaml("no mixers", "mixers:\nrows: {a: {}}\n", "mixers is None; it must be a mapping"),
    yaml("a list as mix", "mix: [a]\n", "mix is ['a']; it must be text"),
    yaml("numbers as keys", "1: 2\n", "unknown key '1'"),
    yaml("mixers within themselves", "mixers: &m {vanilla: {mixer: choice, of: *m}}\n", "holds itself"),
    yaml("data in a list", "data: [1]\n", "data is [1]; it must be a mapping"),
    Fault("a folder as config", lambda folder: (folder / "a.yaml").mkdir(), "fastmix.train a.yaml", ("a.yaml",)),
]
