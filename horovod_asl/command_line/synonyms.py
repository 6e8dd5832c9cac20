"""Options by the names that other programs give them: timm, torchvision, Ultralytics, Lightning, Horovod's examples.

A name that means the same is accepted (`SAME`), for a name that means nearly the same the error names ours (`LIKE`),
and for one that means nothing here it says why (`WITHOUT`). A command's own option always comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from horovod_asl.command_line.options import Option


def _all(rows: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Foreign name → our names, in the order in which a command's options are tried."""
    return {name: tuple(ours.split()) for names, ours in rows for name in names.split()}


SAME: Mapping[str, str] = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "arch": "model",
    "batch_size": "batch_size_per_replica",
    "num_workers": "workers",
    "j": "workers",
    "poor_copies": "degraded_copies",  # our own name until version 0.1
}

LIKE: Mapping[str, tuple[str, ...]] = _all(
    [
        ("batch_size bs b batch train_batch_size", "batch_size_per_replica global_batch batch"),
        ("lr0 base_lr", "learning_rate"),
        ("num_epochs n_epochs max_epochs", "epochs"),
        (
            "output output_dir out out_dir o save_dir log_dir logdir project name",
            "out run_folder report places",
        ),
        ("checkpoint_dir run_dir work_dir experiment", "out run_folder report places"),
        ("resume_from resume_from_checkpoint checkpoint ckpt ckpt_path", "resume run words"),
        ("weights initial_checkpoint finetune model_path", "pretrained run words"),
        ("model arch m run run_folder", "run words"),
        ("data data_dir data_path dataset root train_dir d", "store folds_of photos words places"),
        ("image images img photo photos source src input path folder", "photos words places store folds_of"),
        ("store", "folds_of photos places"),
        ("image_size img_size imgsz input_size size", "image_size"),
        ("amp fp16 bf16 half mixed_precision use_amp", "precision"),
        ("gpu cuda no_cuda cpu accelerator", "device"),
        ("opt optim", "optimizer"),
        ("sched scheduler lr_scheduler", "schedule"),
        ("warmup warmup_steps lr_warmup_epochs", "warmup_epochs"),
        ("smoothing", "label_smoothing"),
        ("mixup", "mixup_alpha"),
        ("cutmix", "cutmix_alpha"),
        ("clip_grad clip_grad_norm max_grad_norm gradient_clip_val", "clip_norm"),
        ("ema model_ema model_ema_decay", "ema_decay"),
        ("grad_accum_steps gradient_accumulation_steps accumulate_grad_batches", "accumulation_steps"),
        ("batches_per_allreduce accum_iter", "accumulation_steps"),
        ("degrees rotation rotate", "rotation_degrees"),
        ("color color_jitter", "colour"),
        ("reprob random_erase erasing", "cutout"),
        ("freeze freeze_backbone tuned_blocks", "train"),
        ("views features_file", "cache_features"),
        ("epoch_share", "epochs"),
        ("use_adasum", "adasum"),
        ("fp16_allreduce", "fp16_compression"),
        ("early_stopping", "patience"),
        ("box", "bundle"),
        ("torchcompile torch_compile", "compile"),
        ("threads num_threads", "threads_per_rank workers"),
        ("save_top_k checkpoint_hist", "keep_top"),
        ("conf confidence threshold", "abstain"),
        ("topk top_k k", "top"),
        ("nproc num_proc n_jobs jobs", "workers"),
        ("val_split test_split test_size split_ratio", "fraction"),
        ("overwrite force", "replace"),
    ]
)

_WORKERS = "photos are mapped into memory or decoded on all cores, there are no loader workers: leave it out"
_GPUS = (
    "the launcher starts the processes (horovodrun -np N, torchrun --nproc-per-node N), and one process takes all "
    "GPUs that it sees: leave it out"
)
_RANKS = "each rank reads in its environment who it is: leave it out"
_SIZE = "the size is that of the store, made with `horovod-asl prepare --image-size N`: leave it out"
_BATCH = "how many photos are read at a time changes no answer: leave it out"
_MIRROR = "hand_net reads every hand as both sides, and other networks learn from right and left hands: leave it out"
_PRINTED = "the output is printed: put `> FILE` behind the command"

WITHOUT: Mapping[str, str] = {
    **dict.fromkeys(("workers", "num_workers", "j", "nw"), _WORKERS),
    **dict.fromkeys(("gpus", "num_gpus", "devices", "np", "nproc_per_node", "ngpus"), _GPUS),
    **dict.fromkeys(("rank", "local_rank", "world_size", "dist_url", "dist_backend", "nnodes"), _RANKS),
    **dict.fromkeys(("image_size", "img_size", "imgsz", "input_size"), _SIZE),
    **dict.fromkeys(("output", "output_dir", "out", "o"), _PRINTED),
    **dict.fromkeys(("batch_size", "bs", "b", "batch"), _BATCH),
    **dict.fromkeys(("hflip", "fliplr", "flip", "mirror"), _MIRROR),
    **dict.fromkeys(("num_classes", "nc"), "the classes are the 29 of the ASL alphabet: leave it out"),
}


def our_name(name: str, options: Iterable[Option]) -> str | None:
    """The name of the option that a foreign name means exactly; None if these options have none."""
    ours = SAME.get(name)
    return ours if any(option.name == ours for option in options) else None


def like(name: str, options: Iterable[Option]) -> Option | None:
    """The option that comes nearest to what a foreign name means elsewhere."""
    by_name = {option.name: option for option in options}
    return next((by_name[ours] for ours in LIKE.get(name, ()) if ours in by_name), None)


def synonyms_of(option: Option) -> list[str]:
    """The other flags that stand for an option."""
    return [
        ("--" if len(name) > 1 else "-") + name.replace("_", "-")
        for name, ours in SAME.items()
        if ours == option.name
    ]
