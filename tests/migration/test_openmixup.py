"""Configs in OpenMixup's form, written for these tests: what comes of them is what our columns have, key by key."""

import re

import pytest

from fastmix import config
from fastmix.engine import optim
from fastmix.migration.openmixup import migrated
from fastmix.mixers import MIXERS, build
from fastmix.models import load_timm
from helpers.openmixup_names import theirs

DATA = """
norm = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
train = [dict(type='RandomResizedCrop', size=SIZE, interpolation=3), dict(type='RandomHorizontalFlip')]
test = [dict(type='Resize', size=256, interpolation=3), dict(type='CenterCrop', size=224),
        dict(type='ToTensor'), dict(type='Normalize', **norm)]
data = dict(imgs_per_gpu=64, workers_per_gpu=4,
    train=dict(type='ClassificationDataset', pipeline=train, prefetch=True,
               data_source=dict(type='ImageNet', list_file='meta/train.txt', root='data/ImageNet/train')),
    val=dict(type='ClassificationDataset', pipeline=test, prefetch=False,
             data_source=dict(type='ImageNet', list_file='meta/val.txt', root='data/ImageNet/val')))
evaluation = dict(initial=False, interval=1)
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook')])
"""
RUN = """
model = dict(
    type='MixUpClassification', pretrained=None, alpha=1, mix_mode='cutmix',
    mix_args=dict(fmix=dict(decay_power=3, size=(224, 224)), manifoldmix=dict(layer=(0, 3))),
    backbone=dict(type='ResNet_Mix', depth=50, num_stages=4, out_indices=(3,), style='pytorch'),
    head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss', loss_weight=1.0), with_avg_pool=True,
              multi_label=False, in_channels=2048, num_classes=1000))
optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001)
use_fp16 = False
optimizer_config = dict(update_interval=1, grad_clip=None)
lr_config = dict(policy='CosineAnnealing', min_lr=0)
runner = dict(type='EpochBasedRunner', max_epochs=100)
"""
VIT = """
update_interval = 2
model = dict(_delete_=True, type='MixUpClassification', alpha=[0.8, 1.0], mix_mode=['mixup', 'cutmix'], mix_prob=None,
    backbone=dict(BACKBONE),
    head=dict(type='ClsMixupHead', loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=1000,
              mode='original', loss_weight=1.0), in_channels=9, num_classes=1000))
optimizer = dict(_delete_=True, type='AdamW', lr=4e-3, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999),
    paramwise_options={'(bn|ln|gn)(\\\\d+)?.(weight|bias)': dict(weight_decay=0.), 'norm': dict(weight_decay=0.),
        'bias': dict(weight_decay=0.), 'gamma': dict(weight_decay=0.), 'layer_scale': dict(weight_decay=0.),
        'scale': dict(weight_decay=0.), 'cls_token': dict(weight_decay=0.), 'pos_embed': dict(weight_decay=0.),
        'relative_position_bias_table': dict(weight_decay=0.)})
use_fp16 = True
optimizer_config = dict(grad_clip=dict(max_norm=5.0), update_interval=update_interval)
lr_config = dict(policy='CosineAnnealing', by_epoch=False, min_lr=1e-6, warmup='linear', warmup_iters=20,
                 warmup_by_epoch=True, warmup_ratio=1e-6)
custom_hooks = [dict(type='EMAHook', momentum=0.9999, warmup='linear', warmup_iters=20 * 626, warmup_ratio=0.9,
                     update_interval=update_interval)]
"""
BLOCK = """
model = dict(_delete_=True, type='AutoMixup', alpha=2.0, momentum=0.999, mask_layer=2, mask_loss=0.1, mask_adjust=0,
    lam_margin=0.08, mask_up_override=None, debug=True,
    backbone=dict(type='ResNet', depth=50, num_stages=4, out_indices=(2, 3), style='pytorch'),
    mix_block=dict(type='PixelMixBlock', in_channels=1024, reduction=2, use_scale=True, unsampling_mode=['MODE'],
        lam_concat=LAM, lam_mul=SAMIX, lam_mul_k=-1, lam_residual=SAMIX, x_qk_concat=SAMIX, x_v_concat=False,
        value_neck_cfg=NECK, mask_loss_mode='LOSS', mask_loss_margin=0.1, frozen=False),
    head_one=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss'), in_channels=2048, num_classes=1000),
    head_mix=dict(type='ClsMixupHead', loss=dict(type='CrossEntropyLoss'), in_channels=2048, num_classes=1000),
    head_weights=dict(head_mix_q=1, head_one_q=1, head_mix_k=1, head_one_k=1))
custom_hooks = [dict(type='SAVEHook', save_interval=100),
    dict(type='CustomCosineAnnealingHook', attr_name='mask_loss', attr_base=0.1, by_epoch=False, min_attr=0.),
    dict(type='CosineScheduleHook', end_momentum=0.99999, adjust_scope=[0.1, 1.0], warming_up='constant')]
optimizer = dict(type='SGD', paramwise_options={'mix_block': dict(lr=0.1, momentum=0.)})
addtional_scheduler = dict(policy='CosineAnnealing', min_lr=0.001, paramwise_options=['mix_block'])
"""
LABELS = (
    "column.table",
    "column.backbone",
    "column.setting",
    "data.train",
    "data.val",
    "model.compile",
    "mixers",
    "mix",
)


@pytest.fixture
def made(tmp_path):
    """The config of a text over the parts above, in a file of that name, and the notes."""

    def make(text="", name="r50_4xb64.py", size=224, gpus=None):
        (tmp_path / "data.py").write_text(DATA.replace("SIZE", str(size)))
        (tmp_path / "run.py").write_text("_base_ = 'data.py'\n" + RUN)
        path = tmp_path / name
        path.write_text("_base_ = 'run.py'\n" + text)
        return migrated(path, gpus)

    return make


def unlike(cfg, column, *words):
    """Keys in which the config is not our column's, as trained with that code's behaviour; its method apart."""
    ours = config.load(f"{column}.yaml", ["fidelity=openmixup", "model.classes=1000", *words])
    keys = config.differences(cfg, ours)
    return [key for key in keys if not key.startswith(LABELS)], (cfg.mixers[cfg.mix], ours.mixers[ours.mix])


def ways(notes):
    """Notes but those on where images come from and how many GPUs there were."""
    return [note for note in notes if not note.startswith(("data.train:", "data.val:", "batch_total="))]


def test_the_pytorch_style_setting_is_our_column(made):
    cfg, notes = made()
    assert unlike(cfg, "r50_100ep", "mix=cutmix", "precision=fp32") == ([], ({"alpha": 1}, {"alpha": 1.0}))
    assert ways(notes) == [] and len(notes) == 3
    assert (
        "as the name 4xb64 says" in notes[2] and "python -m fastmix.convert data/ImageNet/train/train.txt" in notes[0]
    )


def test_convnexts_setting_is_our_column(made):
    """With its average, two parts of a step and a warm-up of the weights' average in batches of the loader."""
    backbone = "type='ConvNeXt', arch='tiny', out_indices=(3,), drop_path_rate=0.1, gap_before_final_norm=True"
    text = (
        VIT.replace("BACKBONE", backbone)
        + """
data = dict(imgs_per_gpu=256, train=dict(pipeline=[dict(type='RandomResizedCrop', size=224, interpolation=3),
    dict(type='RandomHorizontalFlip'), dict(type='RandAugment', policies=[dict(type='A')] * 15, num_policies=2,
        total_level=10, magnitude_level=9, magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
    dict(type='RandomErasing_numpy', erase_prob=0.25, mode='rand', min_area_ratio=0.02, max_area_ratio=1 / 3,
        fill_color=[104, 116, 124], fill_std=[58, 57, 58])]))
runner = dict(max_epochs=300)
"""
    )
    cfg, notes = made(text, "convnext_8xb256_accu2.py")
    words = ["augment.variant=mmcls", "optim.clip=5.0", "optim.no_decay=['*norm.weight', gamma, bias]"]
    keys, (ours, column) = unlike(cfg, "convnext_t", "mix=deit", *words)
    assert keys == [] and ours == column
    assert ways(notes) == [
        "optim.no_decay: as there, downsample_layers.0.1.weight and their like decay; [norm, bias, ...] spares all"
    ]


@pytest.mark.parametrize("row", ["automix", "samix"])
def test_automix_and_samix_are_our_columns(made, row):
    neck = "dict(type='ConvNeck', in_channels=1024, with_last_dropout=0.1)"
    words = {"MODE": "bilinear", "LAM": "False", "SAMIX": "True", "NECK": neck, "LOSS": "L1+Variance"}
    if row == "automix":
        words = {"MODE": "nearest", "LAM": "True", "SAMIX": "False", "NECK": "None", "LOSS": "L1"}
    text = BLOCK
    for key, value in words.items():
        text = text.replace(key, value)
    cfg, notes = made(text)
    keys, _ = unlike(cfg, "r50_100ep", f"mix={row}", "precision=fp32")
    ours = config.load("r50_100ep.yaml", [f"mix={row}"])
    assert keys == [] and ways(notes) == [] and cfg.mix == row
    one, other = build(row, cfg.mixers, "openmixup"), build(row, ours.mixers, "openmixup")
    for key, value in vars(other).items():
        if not key.startswith(("_", "training")):
            assert getattr(one, key) == value, key


SITES = [
    ("type='ResNet', depth=50, out_indices=(1, 3)", "stage2"),
    ("type='ResNet', depth=50, out_indices=(2, 3)", None),
    ("type='WideResNet', depth=28, widen_factor=8, out_indices=(1, 2)", "stage2"),
    ("type='VisionTransformer', arch='deit-small', out_indices=(5, 11)", None),
    ("type='VisionTransformer', arch='deit-small', out_indices=(7, 11)", "block7"),
    ("type='PyramidVisionTransformer', arch='tiny', out_indices=(2, 3)", None),
    ("type='SwinTransformer', arch='tiny', out_indices=(1, 3)", "stage2"),
]


@pytest.mark.parametrize("backbone, site", SITES)
def test_the_block_reads_where_it_does_there(made, backbone, site):
    text = BLOCK.replace(
        "dict(type='ResNet', depth=50, num_stages=4, out_indices=(2, 3), style='pytorch')", f"dict({backbone})"
    )
    for key, value in {"MODE": "nearest", "LAM": "True", "SAMIX": "False", "NECK": "None", "LOSS": "L1"}.items():
        text = text.replace(key, value)
    cfg, _ = made(text)
    assert cfg.mixers["automix"].get("site") == site


def test_binary_cross_entropy_lamb_and_a_choice_are_our_rsb(made):
    text = """
model = dict(alpha=[0.1, 1.0], mix_mode=['mixup', 'cutmix'], backbone=dict(norm_cfg=dict(type='SyncBN')),
    head=dict(type='ClsMixupHead', multi_label=True, loss=dict(use_soft=False, use_sigmoid=True)))
optimizer = dict(_delete_=True, type='LAMB', lr=0.008, weight_decay=0.02, paramwise_options={
    '(bn|gn)(\\\\d+)?.(weight|bias)': dict(weight_decay=0.), 'bias': dict(weight_decay=0.)})
use_fp16 = True
lr_config = dict(min_lr=1e-6, warmup='linear', warmup_iters=5, warmup_by_epoch=True, warmup_ratio=1e-5)
data = dict(imgs_per_gpu=512, val=dict(pipeline=[dict(type='Resize', size=236, interpolation=3),
                                                 dict(type='CenterCrop', size=224)]))
"""
    cfg, notes = made(text, "r50_4xb512_fp16.py", 160)
    words = ["augment.kind=none", "augment.magnitude=9", "augment.fill=null", "optim.no_decay=['*bn?.weight', bias]"]
    keys, (ours, column) = unlike(cfg, "r50_rsb_a3", "mix=rsb", *words)
    assert keys == [] and ours == column
    assert len(ways(notes)) == 1


MODES = [
    ("mixup", 0.2, "", {"mixup": {"alpha": 0.2}}),
    ("vanilla", 1, "", {"vanilla": {}}),
    ("smoothmix", 0.2, "", {"smoothmix": {}}),
    ("gridmix", 0.2, "gridmix=dict(n_holes=(2, 5), cut_area_ratio=(0.5, 1), cut_aspect_ratio=(0.5, 2))",
     {"gridmix": {"alpha": 0.2, "holes": (2, 5)}}),
    ("fmix", 1.0, "fmix=dict(decay_power=2)", {"fmix": {"alpha": 1.0, "decay": 2}}),
    ("resizemix", 1.0, "resizemix=dict(scope=(0.1, 0.8), use_alpha=True)", {"resizemix": {"alpha": 1.0}}),
    ("resizemix", 1.0, "resizemix=dict(scope=(0.2, 0.6))", {"resizemix": {"scope": (0.2, 0.6)}}),
    ("manifoldmix", 0.5, "manifoldmix=dict(layer=(1, 3))",
     {"manifoldmix": {"alpha": 0.5, "sites": ["stage1", "stage2"]}}),
    ("puzzlemix", 1.0, "puzzlemix=dict(block_num=4, t_size=-1)", {"puzzlemix": {"alpha": 1.0}}),
    ("puzzlemix", 1.0, "puzzlemix=dict(block_num=5, t_size=4, neigh_size=2, eta=0.3)",
     {"puzzlemix": {"alpha": 1.0, "blocks": [2, 4, 8, 16], "t_size": 4, "neighbours": 2, "eta": 0.3}}),
    ("alignmix", 2.0, "alignmix=dict(eps=0.2, max_iter=50)",
     {"alignmix": {"alpha": 2.0, "eps": 0.2, "iterations": 50}}),
    ("mixpro", 1.0, "mixpro=dict(mask_patch_size=32)", {"mixpro": {"alpha": 1.0, "cell": 32}}),
    ("smmix", 1.0, "smmix=dict(side=14, min_side_ratio=0.3, max_side_ratio=0.75)", {"smmix": {"scope": (0.3, 0.75)}}),
    ("tokenmix", 1.0, "", {"tokenmix_attn": {"alpha": 1.0}}),
    ("tla", 1.0, "", {"tlalign": {"alpha": 1.0}}),
    ("guidedmix", 1.0, "guidedmix=dict(guided_type='sr')", {"guidedmixup": {}}),
    (["mixup", "cutmix", "mixup"], [0.1, 1, 2], "",
     {"mixup_cutmix_mixup_2": {"mixer": "choice", "of": {"mixup": {"prob": 1 / 3, "alpha": 0.1},
      "cutmix": {"prob": 1 / 3, "alpha": 1}, "mixup_2": {"prob": 1 / 3, "mixer": "mixup", "alpha": 2}}}}),
    (("mixup", "transmix"), [0.8, 1.0], "transmix=dict(mix_mode='cutmix')), mix_prob=[0.2, 0.8], dummy=dict(",
     {"mixup_transmix": {"mixer": "choice", "of": {"mixup": {"prob": 0.2, "alpha": 0.8},
                                                   "transmix": {"prob": 0.8, "alpha": 1.0}}}}),
]  # fmt: skip


@pytest.mark.parametrize("mode, alpha, args, rows", MODES, ids=[f"{case[0]}-{n}" for n, case in enumerate(MODES)])
def test_each_mode_with_its_arguments_is_a_row(made, mode, alpha, args, rows):
    cfg, _ = made(f"model = dict(mix_mode={mode!r}, alpha={alpha!r}, mix_args=dict({args}))\n")
    assert cfg.mixers == rows and cfg.mix in rows and cfg.fidelity == "openmixup"
    build(cfg.mix, cfg.mixers, cfg.fidelity)


def test_every_mode_of_that_code_has_a_row_or_a_note(made):
    names = ("alignmix attentivemix puzzlemix automix samix snapmix guidedmix transmix tokenmix mixpro smmix tla mixup "
             "cutmix fmix gridmix manifoldmix saliencymix smoothmix resizemix augmix vanilla").split()  # fmt: skip
    for name in names:
        cfg, notes = made(f"model = dict(mix_mode='{name}', alpha=1.0)\n")
        assert set(cfg.mixers) <= set(MIXERS)
        if cfg.mix == "vanilla" != name:
            assert any(note.startswith(f"model.mix_mode={name}: no equivalent") for note in notes)


DECAYS = [
    ("pvt", "PyramidVisionTransformer", "tiny", "pvt_tiny", {"img_size": 32}),
    ("moganet", "MogaNet", "tiny", "moganet_tiny", {}),
    ("convnext", "ConvNeXt", "tiny", "convnext_tiny", {}),
    ("vit", "VisionTransformer", "deit-tiny", "deit_tiny_patch16_224", {}),
    ("swin", "SwinTransformer", "tiny", "swin_tiny_patch4_window7_224", {}),
]


@pytest.mark.parametrize("norms", ["(bn|ln|gn)(\\\\d+)?.(weight|bias)", "norm"])
@pytest.mark.parametrize("family, kind, arch, name, args", DECAYS, ids=[case[0] for case in DECAYS])
def test_the_same_parameters_decay_as_by_its_names(made, family, kind, arch, name, args, norms):
    text = VIT.replace("BACKBONE", f"type={kind!r}, arch={arch!r}")
    if norms == "norm":
        text = text.replace("'(bn|ln|gn)(\\\\d+)?.(weight|bias)': dict(weight_decay=0.), ", "")
    else:
        text = text.replace("'norm': dict(weight_decay=0.),", "")
    cfg, _ = made(text)
    assert cfg.model.name == name
    model = load_timm().create_model(name, **args)
    patterns = [p for p in ("(bn|ln|gn)(\\d+)?.(weight|bias)", "norm") if (p == "norm") == (norms == "norm")]
    patterns += ["bias", "gamma", "layer_scale", "scale", "cls_token", "pos_embed", "relative_position_bias_table"]
    there = {key for key, _ in model.named_parameters() if any(re.search(p, theirs(family, key)) for p in patterns)}
    names = {id(p): key for key, p in model.named_parameters()}
    ours = {names[id(p)] for g in optim.param_groups(cfg.optim, model) if "weight_decay" in g for p in g["params"]}
    assert ours == there


def test_small_images_weights_of_torchvision_and_other_sizes(made):
    text = """
model = dict(pretrained='torchvision://resnet18', backbone=dict(type='ResNet', depth=18))
data = dict(_delete_=True, imgs_per_gpu=16, train=dict(data_source=dict(type='CIFAR100', root='data/cifar100/'),
    pipeline=[dict(type='RandomCrop', size=32, padding=4, padding_mode='reflect'), dict(type='Lighting'),
              dict(type='ColorJitter', brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)]),
    val=dict(data_source=dict(type='CIFAR100', root='data/cifar100/'), pipeline=[]))
lr_config = dict(policy='step', step=[30, 60])
"""
    cfg, notes = made(text, "cub_bs16.py")
    data = cfg.data
    assert (cfg.model.name, cfg.model.weights) == ("resnet18.tv_in1k", "timm")
    assert (data.crop, data.size, data.pad, data.pad_mode, data.flip, data.val_resize) == (
        "pad",
        32,
        4,
        "reflect",
        0,
        None,
    )
    assert (data.loader, data.train) == ("folder", "data/cifar100/cifar-100-python/train")
    assert cfg.augment.jitter == (0.4, 0.3, 0.2) and (cfg.batch_total, cfg.column.gpu_batch) == (16, 16)
    assert sorted(note.split(":")[0] for note in notes) == [
        "batch_total=16", "data.train.pipeline[1] is Lighting", "data.train.pipeline[2].hue=0.1",
        "lr_config.policy=step",
    ]  # fmt: skip


def test_gpus_of_the_command_count_more_than_a_name(made):
    cfg, notes = made(gpus=2)
    assert (cfg.batch_total, cfg.column.gpu_batch) == (128, 64) and not any("batch_total" in note for note in notes)


def test_classyvisions_smoothing_is_the_usual_one_of_another_share(made):
    loss = "dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1, mode='classy_vision')"
    cfg, _ = made(f"model = dict(head=dict(loss={loss}))")
    onehot, k = 1.0, 10
    assert (1 - cfg.loss.smoothing) * onehot + cfg.loss.smoothing / k == pytest.approx((onehot + 0.1 / k) / 1.1)


def test_drop_path_counts_by_its_own_name_only(made):
    cfg, notes = made(VIT.replace("BACKBONE", "type='VisionTransformer', arch='deit-small', drop_path=0.1"))
    assert cfg.model.args == {} and any("model.backbone.drop_path=0.1 has no effect there" in note for note in notes)


def test_unknown_things_are_lines_and_no_crash(made):
    text = """
import os
model = dict(type='MixUpClassification', mix_mode=['mixup', 'newmix'], alpha=[1.0, os.cpu_count()], extra=dict(a=1),
    backbone=dict(_delete_=True, type='BrandNew', arch='x', width=3))
optimizer = dict(_delete_=True, type='Adan', lr='fast', betas=(0.9, 0.9, 0.9))
custom_hooks = [dict(type='NewHook'), 7]
data = dict(imgs_per_gpu=64, train=dict(pipeline=[dict(type='Cutout')]))
"""
    cfg, notes = made(text)
    assert config.from_tree(config.to_tree(cfg), "again").model.name == "brandnew_x"
    starts = ["r50_4xb64.py, line 3", "r50_4xb64.py, line 4", "model.backbone is BrandNew", "model.backbone.width=3",
              "optimizer.type is Adan", "optimizer.lr='fast'", "optimizer.betas", "custom_hooks holds NewHook",
              "custom_hooks holds 7", "data.train.pipeline[0] is Cutout", "model.mix_mode=newmix",
              "model.extra="]  # fmt: skip
    for start in starts:
        assert any(note.startswith(start) for note in notes), (start, notes)


@pytest.mark.parametrize("text, words", [
    ("model = dict(_delete_=True, type='MoCo')", "model.type is MoCo; what can be migrated is one of"),
    ("model = 3", "no config of OpenMixup"),
    ("model = dict(_delete_=True, backbone=dict(type='ResNet'))", "no config of OpenMixup"),
    ("data = dict(val=dict(pipeline=[dict(type='Resize', size=100), dict(type='CenterCrop', size=224)]))",
     "val_resize is 100"),
])  # fmt: skip
def test_other_files_are_refused_in_a_line(made, text, words):
    with pytest.raises(ValueError, match=words) as error:
        made(text)
    assert "\n" not in str(error.value)
