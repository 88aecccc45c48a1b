"""Words: whatever a library raises over a user's input is one line with what, where and what to do."""

from __future__ import annotations

from pathlib import Path

from faults import trained
from faults.checkpoints import last
from faults.harness import Fault, nothing
from faults.trained import change, finished

SHAPES = "'shapes:train?n=16&size=32'"
DRAW = f"fastmix.draw {SHAPES} --mix mixup"
SUPERMIX = f"fastmix.supermix {SHAPES} out.beton --teacher test_resnet --weights run/model.safetensors --size 32"


def train(words: str, *says: str, prepare=nothing) -> Fault:
    return Fault(f"train {words}", prepare, f"fastmix.train {{config}} {words}", says)


def of_run(command: str, *says: str) -> Fault:
    return Fault(command, finished, command, says)


def alone(command: str, *says: str) -> Fault:
    return Fault(command, nothing, command, says)


def a_number_as_weights(folder: Path) -> None:
    finished(folder)
    change(folder / "run/last.pt", lambda found: found["task"].update({next(iter(found["task"])): 3}))


FAULTS = [
    train("model.args.in_chans=1", "model test_resnet cannot see images of 32 pixels", "1 channels, but got 3"),
    train("model.args.in_chans=1 --dry-run", "model test_resnet cannot see images of 32 pixels"),
    train("model.args.num_classes=5", "model test_resnet with model.args {'num_classes': 5}", "num_classes"),
    train("model.args.features_only=true", "model test_resnet cannot see images", "no scores of 10 classes"),
    train("model.args.global_pool=xx", "model test_resnet with model.args", "Invalid pool type: xx"),
    train("model.args.checkpoint_path=nowhere.pth", "model.args.checkpoint_path is 'nowhere.pth', which is no file"),
    train("model.args.checkpoint_path=run", "model.args.checkpoint_path is 'run', which is no file", prepare=finished),
    train(
        "model.args.checkpoint_path=run/model.safetensors model.name=resnet18",
        "model resnet18 with model.args {'checkpoint_path': 'run/model.safetensors'}",
        prepare=finished,
    ),
    train(
        "model.args.checkpoint_path=run/model.safetensors model.args.stem_width=8",
        "model test_resnet with model.args",
        "size mismatch",
        prepare=finished,
    ),
    train("model.name=resnet18.nosuchtag", "model resnet18.nosuchtag: Invalid pretrained tag (nosuchtag)"),
    train("model.name=resnet5", "unknown model 'resnet5'; did you mean"),
    train("model.name=deit_tiny_patch16_224", "model deit_tiny_patch16_224 cannot see images of 32 pixels", "(224)"),
    train("model.name=deit_tiny_patch16_224 --dry-run", "deit_tiny_patch16_224 cannot see images of 32 pixels"),
    train("model.args.act_layer=foo", "model test_resnet with model.args {'act_layer': 'foo'}: KeyError"),
    train("model.args.norm_layer=3", "model test_resnet with model.args {'norm_layer': 3}: AssertionError"),
    train("model.name=test_vit model.args.img_size=[32]", "model test_vit with model.args", "IndexError"),
    train("model.name=test_vit model.args.patch_size=0", "model test_vit with model.args", "ZeroDivisionError"),
    train("'model.args={1: 2}'", "model test_resnet with model.args {1: 2}: keywords must be strings"),
    train("out=/proc/nothere", "/proc/nothere: No such file or directory"),
    train("out=/dev/null", "/dev/null exists", "choose another out=FOLDER"),
    train("out=/dev/null/x", "/dev/null/x: Not a directory"),
    train(f"out={'a' * 300}", "File name too long"),
    train("'out=\"a\\0b\"'", "out is 'a\\x00b'; it must be text without a zero byte"),
    train("data.train=/dev/zero", "/dev/zero: a device, where a file is needed"),
    train("'data.train=shapes:train?n=1000000000000'", "n must be a whole number from 10 to 1,000,000"),
    train("'data.train=shapes:train?n=16&size=100000'", "size must be a whole number from 16 to 4,096"),
    train("mix=transmix mixers.transmix={}", "TransMix: test_resnet has no class token"),
    train("mix=attentivemix mixers.attentivemix={}", "mixers.attentivemix", "weights is not given"),
    train("mix=attentivemix mixers.attentivemix.weights=nowhere", "teacher resnet18: nowhere: no such checkpoint"),
    train("mix=attentivemix mixers.attentivemix.weights=/", "teacher resnet18: /: no such checkpoint"),
    train("mix=attentivemix mixers.attentivemix.weights={config}", "small.yaml: not a checkpoint"),
    train("optim.nesterov=true optim.momentum=0", "optim.nesterov is true; it needs optim.momentum above 0"),
    train("data.loader=betonn --dry-run", "did you mean 'beton'"),
    train("--foo", "unrecognized arguments: --foo", "--help"),
    train("epochs", "'epochs' is no setting: write key=value"),
    Fault(
        "no compiler",
        nothing,
        "fastmix.train {config} model.compile=default",
        ("model.compile is default", "compile=off"),
        env={"CXX": "no-such-compiler", "PATH": "/nowhere"},
    ),  # fmt: skip
    alone("fastmix.train", "the following arguments are required", "--help"),
    alone("fastmix.train nowhere.yaml", "nowhere.yaml: no such config file"),
    Fault("a number as weights", a_number_as_weights, "fastmix.validate run", ("run/last.pt",)),
    Fault(
        "a checkpoint of text says no word of pickle",
        last(lambda path: path.write_bytes(b"\x1b[31mx" * 99)),
        trained.COMMAND,
        ("run/last.pt: not a checkpoint, or a damaged one",),
    ),  # fmt: skip
    *(
        of_run(f"fastmix.validate run {option} {value}", f"argument {option}: '{value}' is not", text)
        for option, value, text in [
            ("--size", "0", "a whole number from 8 to 4,096"),
            ("--size", "-5", "a whole number from 8 to 4,096"),
            ("--size", "1000000", "a whole number from 8 to 4,096"),
            ("--size", "x", "a whole number from 8 to 4,096"),
            ("--resize", "0", "a whole number from 8 to 4,096"),
            ("--crop-pct", "nan", "a number from 0.01 to 1"),
            ("--crop-pct", "1e-9", "a number from 0.01 to 1"),
        ]
    ),
    of_run("fastmix.validate run --resize 8", "resize is 8, smaller than the crop of 32 pixels"),
    of_run("fastmix.validate run --names x", "--names goes with --real FILE"),
    of_run("fastmix.validate run --checkpoint first", "invalid choice: 'first'"),
    of_run("fastmix.validate run --json no/such/x.json", "no/such/x.json: there is no folder no/such"),
    of_run("fastmix.validate run model.name=resnet18", "run/last.pt: the weights do not fit the model"),
    of_run("fastmix.validate run data.val=nowhere", "data.val is 'nowhere', which does not exist"),
    of_run("fastmix.validate run --real run/log.jsonl", "run/log.jsonl: not JSON"),
    of_run("fastmix.validate run/first_batch.png", "run/first_batch.png: not a checkpoint, or a damaged one"),
    alone("fastmix.validate nowhere", "nowhere: no such run folder or checkpoint"),
    alone("fastmix.validate --model resnet1888 --weights x.pth", "unknown model 'resnet1888'"),
    of_run("fastmix.report run --table foo", "foo"),
    of_run("fastmix.report run --out no/such.md", "no/such.md: No such file or directory"),
    of_run("fastmix.report run --columns to1", "no column 'to1'; did you mean 'top1'"),
    of_run("fastmix.report run --figures x --format csv", "--format csv is for tables"),
    alone("fastmix.report --runs nowhere", "nowhere: no such folder of runs"),
    alone("fastmix.sweep {config} --per-gpu 0", "argument --per-gpu: '0' is not a whole number from 1"),
    alone("fastmix.sweep {config} --gpus x", "no GPU 'x'"),
    alone("fastmix.sweep {config} seed=0 seed=1", "seed is given twice"),
    alone("fastmix.sweep {config} optim.lr=0.1,-1", "optim.lr is -1; it must be a number from 0 to"),
    alone("fastmix.sweep {config} data.loader=betonn", "did you mean 'beton'"),
    alone("fastmix.sweep {config} --runs /dev/null", "/dev/null"),
    *(
        alone(f"{DRAW} {option} {value}", f"argument {option}: '{value}' is not a whole number from")
        for option, value in [
            ("--n", "0"),
            ("--size", "-1"),
            ("--size", "1000000"),
            ("--seed", "-1"),
            ("--across", "0"),
        ]
    ),
    alone(f"{DRAW} mixers.mixup.alpha=-1", "alpha is -1; it must be a number from 1e-06"),
    alone(f"{DRAW} data.std=[0,0,0]", "data.std is 0; it must be a number from 0.001 to 10"),
    alone(f"{DRAW} --out no/such.png", "no/such.png: there is no folder no"),
    *(
        of_run(f"{SUPERMIX} --count 1 {option}", f"argument {option.split()[0]}: '{option.split()[1]}' is not", text)
        for option, text in [
            ("--seed -1", "a whole number from 0 to"),
            ("--std 0 0 0", "a number from 0.001 to 10"),
            ("--mean nan 0 0", "a number from 0 to 1"),
            ("--alpha inf", "a number from 1e-06"),
            ("--sparsity nan", "a number from 0 to"),
            ("--batch 1", "a whole number from 2"),
            ("--tol 1", "a number from 0 to below 1"),
        ]
    ),
    alone("fastmix.bench mix --batch 0", "argument --batch: '0' is not a whole number from 1"),
    alone("fastmix.bench mix --json no/such/x", "no/such/x: there is no folder no/such"),
    alone("fastmix.bench loader shapes:train --workers 0", "argument --workers: '0' is not a whole number from 1"),
    alone("fastmix.bench nope", "invalid choice: 'nope'"),
    alone("fastmix.doctor foo", "unrecognized arguments: foo"),
]
