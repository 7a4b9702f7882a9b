"""What the published models share: COCO at 256x192, as mmpose 1.3.2 trains them.

Each variant is a file beside this one. Any key can be given on the command line, as in
`--config.batch_size=128 --config.data.root=/data/coco`.
"""

import dataclasses

from ml_collections import ConfigDict

from mspn_jax.data import augment


def get_config(variant: str, num_stages: int) -> ConfigDict:
    """The config of a published model, by its name and number of stages."""
    config = ConfigDict()
    config.variant = variant
    config.skeleton = "coco"  # or "mpii", "crowdpose", a file; empty: the data's own
    config.crop_hw = (256, 192)
    config.padding = 1.25  # the size of the crop region over the box's
    config.seed = 0

    config.model = ConfigDict()
    config.model.num_stages = num_stages
    config.model.blocks_per_unit = (3, 4, 6, 3)  # ResNet-50's
    config.model.stem_channels = 64
    config.model.unit_channels = 256
    config.dtype = "float32"  # what convolutions compute in; or bfloat16
    config.sync_batch_norm = False  # normalise with the statistics of all devices' crops

    config.init = ConfigDict()  # at most one; empty: new weights
    config.init.from_torch = ""  # an MSPN's .pth or .safetensors
    config.init.resnet50 = ""  # torchvision's .pth, for the stem and every stage's encoder
    config.init.checkpoint = ""  # a published name, convert's output, or a workdir

    config.data = ConfigDict()
    config.data.root = "data/coco"
    config.data.train_split = "train2017"
    config.data.also = ()  # more data sets: "ROOT:SPLIT:WEIGHT"; keypoints are matched by name
    config.data.val_split = "val2017"
    config.data.detections = ""  # COCO detection json; empty: evaluate on ground-truth boxes
    config.data.records_dir = ""  # empty: root/records, or the user's cache if that is read-only
    config.data.first_people = 0  # use only the first people of each split; 0: all
    config.data.num_threads = 0  # threads that decode and warp; 0: one per core

    config.augment = ConfigDict(dataclasses.asdict(augment.Settings()))

    config.batch_size = 256  # of all devices together
    config.accumulate = 1  # micro-batches per device: activation memory is that of one
    config.remat = False  # recompute residual blocks in the backward pass, to save memory
    config.num_epochs = 210
    config.num_steps = 0  # instead of num_epochs, if not 0
    config.num_hard_keypoints = 8
    config.clip_norm = 0.0  # the largest global norm of the gradients; 0: no clipping
    config.ema_decay = 0.0  # of the parameters' moving average, which evaluations use; 0: none
    config.stop_after = 0  # end the run after so many evaluations without a better AP; 0: never
    config.max_skipped_in_a_row = 10  # end the run after so many in a row without a finite loss
    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 5e-3  # at batch 256; scaled linearly with the batch
    config.optimizer.encoder_rate = 1.0  # factor on the rate of the stem and the encoders
    config.optimizer.schedule = "drops"  # or "linear" or "cosine", which fit a run of any length
    config.optimizer.warmup_steps = 500  # of "drops"
    config.optimizer.drop_epochs = (170.0, 200.0)
    config.optimizer.drop_factor = 0.1
    config.optimizer.warmup_share = 0.05  # of the run, of "linear" and "cosine"

    config.eval = ConfigDict()
    config.eval.every_epochs = 10  # 0: only at the end
    config.eval.batch_size = 64  # of one process
    config.eval.flip_test = True
    config.eval.decoding = "quarter"  # as for the published metrics; or "dark"
    config.eval.oks_nms_threshold = 0.0  # 0: no NMS, as in the published metrics; older ones: 0.9
    config.eval.box_area_share = 0.0  # an area as a share of the box; 0: the annotated areas
    config.eval.metrics = ()  # besides COCO's: "PCK@0.2", "PCKh@0.5/knee", "AUC", "EPE", "RMSE"
    config.eval.report = False  # report on the best checkpoint at the end of a run

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 500
    config.checkpoint.keep_latest = 2  # besides the one with the best AP
    config.log_every_steps = 20
    config.log = "tensorboard"  # or "wandb", "mlflow", beside it; metrics.jsonl is always written
    return config.lock()  # so that a key that nobody reads, such as a misspelt one, is refused
