"""Every configuration key, once: its default, its unit and what it means.

The other configs start from `get_config()` here and change lines. Keys can be changed on the command line too
(`--config.optim.lr=3e-4`); a key that is not on this page is refused. Tuples of two are (height, width).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The defaults: an EVA02-B/16 at 224 px with MAP pooling, softmax loss, one epoch-less run of `total_steps`."""
    c = ConfigDict()
    c.seed = 0  # integer; initial weights, data order and augmentation all follow from it
    c.total_steps = 70_848  # optimizer steps, skipped ones included
    c.global_batch = 65_536  # pairs a step over all devices of all hosts
    c.micro_batches = 1  # parts that the batch is embedded in, one after the other (gradient cache): the same loss and
    # gradient with the activations of one part only; every picture is embedded twice
    c.dtype = "bfloat16"  # compute dtype of the towers; parameters, norms, logits and loss are float32
    c.mesh = mesh()
    c.vision = vision()
    c.text = text()
    c.loss = loss()
    c.optim = optim()
    c.data = data()
    c.eval = evaluation()
    c.checkpoint = checkpoint()
    c.log = log()
    c.watchdog = watchdog()
    return c


def mesh() -> ConfigDict:
    """Devices along each mesh axis; -1 takes what is left."""
    c = ConfigDict()
    c.data = -1  # pure data parallelism
    c.fsdp = 1  # parameters and moments sharded as well
    c.tensor = 1  # width sharded
    return c


def vision() -> ConfigDict:
    """The vision tower: fields of `lit_tune.models.eva02.Eva02Spec` and `vit.VitSpec`; keys of one family only keep
    their defaults where the other is trained. From `init_from` on, the keys say how a run treats the tower.
    """
    c = ConfigDict()
    c.family = "eva02"  # eva02 | vit (the plain one: timm's ViT, OpenAI CLIP, SigLIP)
    c.image_size = (224, 224)  # pixels
    c.patch_size = 16  # pixels; EVA02 uses 14 or 16
    c.width = 768
    c.depth = 12  # blocks
    c.num_heads = 12
    c.mlp_dim = 2048  # hidden width of the MLP (eva02: SwiGLU)
    c.act = "gelu"  # vit: gelu | gelu_tanh (SigLIP in transformers) | quick_gelu (OpenAI CLIP)
    c.pre_norm = False  # vit: LayerNorm before the first block (CLIP)
    c.patch_bias = True  # vit: bias of the patch embedding; CLIP has none
    c.norm_after_pool = False  # vit: the final norm acts on the pooled vector, not on the tokens
    c.qkv_fused = False  # eva02, layout of exported weights: one qkv weight with q and v biases, or three
    c.qkv_bias = True  # biases on q and v; vit: on k too
    c.key_bias = False  # eva02: a trainable bias on k too (Nomic's layout)
    c.sub_ln = True  # eva02: LayerNorm inside the MLP, on gate * value
    c.attn_inner_norm = False  # eva02: LayerNorm on the joined heads before the output projection (the CLIP variants)
    c.class_token = True
    c.pos_embed = True  # learned absolute positions, class token included
    c.pos_embed_grid = (0, 0)  # patches that the stored table covers; (0, 0): the image's own grid
    c.rope = True  # eva02: 2-D rotary positions on patch tokens
    c.rope_theta = 10_000.0  # eva02
    c.rope_reference_grid = (14, 14)  # eva02: grid with positions 0, 1, 2...; others are scaled to it; (0, 0): own
    c.norm_eps = 1e-6  # pre-norms, final norm, inner attention norm; CLIP has 1e-5
    c.sub_ln_eps = 1e-6  # eva02: the norm inside the MLP: 1e-6 in timm, 1e-5 in Nomic's released code
    c.pool = "map"  # map | nomic | cls | mean
    c.pool_mlp_dim = 2048  # hidden width of the pooling head's MLP (map: GELU or `act`, nomic: SwiGLU)
    c.pool_norm_eps = 1e-6
    c.final_norm = True  # LayerNorm after the last block; `nomic` has none
    c.embed_dim = 0  # output width: one Linear after pooling where it differs from `width`; 0: no Linear
    c.embed_bias = False  # bias of that Linear
    c.embed_square = False  # that Linear also where embed_dim equals width (some released towers have one)
    c.init_from = ""  # a run directory, an export or a timm .safetensors + config to start from; "": random
    c.init_spec = False  # take the keys above (all but embed_dim) and data's mean, std, policy, resize from init_from's
    # own description, those apart that the command line sets; a timm folder has none: `lit-tune import` it first
    c.init_resample = "bicubic"  # bicubic (as the paper's start) | pinv (timm's way): for another patch or image size
    c.freeze_blocks = 0  # first blocks that stay as they are, with patches and positions; -1: all, only the head trains
    c.attention = "auto"  # auto | einsum | pallas (TPU) | cudnn (NVIDIA): the kernel of self-attention in the blocks
    c.remat = "none"  # what the backward pass computes again: none | save (all of a block but its wide products and the
    # attention) | dots (all but its products with weights) | full (all of it)
    c.patch_dropout = 0.0  # share of the patch tokens left out of each training picture, in [0, 1)
    return c


def text() -> ConfigDict:
    """The frozen text tower: where it comes from and how captions are put to it."""
    c = ConfigDict()
    c.model = "nomic-ai/nomic-embed-text-v1.5"  # a folder, a hub id, or a name that lit_tune pins (all-MiniLM-L6-v2)
    c.revision = ""  # hub revision; "" takes the pinned one of a shipped name
    c.sha256 = ""  # expected digest of the weight file; "" takes the pinned one of a shipped name, or accepts any
    c.prefix = "search_query: "  # put before every caption
    c.max_length = 77  # tokens, prefix and special tokens included
    c.length_buckets = ()  # live: tokens, rising, that groups of short texts are cut to, e.g. (24, 32, 48)
    c.pool = "mean"  # mean | cls | last of the last hidden states; CLIP and SigLIP pool by their own rule
    c.layer_norm = True  # LayerNorm without affine on the pooled vector (nomic-embed-text-v1.5)
    c.dim = 0  # keep only the first `dim` numbers of the vector (after layer_norm, before L2); 0 keeps all
    c.source = "live"  # cached: vectors are computed once and read; live: the tower runs inside the step;
    # vectors: those in the folder `vectors` are read and no text tower is looked for
    c.vectors = ""  # source vectors: a folder that `lit-tune cache-text` wrote, from a file of any model's or by itself
    c.cache = ""  # source cached: such a folder, made with this tower; "": our cache folder, made there if absent
    c.cache_dtype = "float32"  # of cached vectors on disk: float32 | bfloat16 | int8 (docs/text-cache.md)
    return c


def loss() -> ConfigDict:
    """The contrastive loss over the global batch."""
    c = ConfigDict()
    c.name = "softmax"  # softmax (CLIP) | sigmoid (SigLIP)
    c.logit_scale_init = 2.6592600369327783  # log of the temperature's inverse; ln(1/0.07), as CLIP
    c.logit_scale_max = 0.0  # clamp of exp(logit_scale) after each update; 0: none (the paper's run)
    c.logit_bias_init = -10.0  # sigmoid only
    c.mask_equal_captions = False  # pairs whose caption sets are equal are no negatives of each other
    c.matryoshka_dims = ()  # widths below the full one at which the vectors are trained too, e.g. (512, 256, 128)
    c.text_bank = 0  # past steps whose texts are further negatives of the pictures (softmax, cached text only)
    c.extra_negatives = 0  # captions a step, beyond the batch's own, that are negatives only (cached text only)
    return c


def optim() -> ConfigDict:
    """AdamW with decoupled weight decay on matrices, warm-up, cosine."""
    c = ConfigDict()
    c.lr = 1e-3  # peak learning rate at `lr_base_batch`
    c.lr_base_batch = 65_536  # pairs; the batch that `lr` was chosen for
    c.lr_scaling = "none"  # none | sqrt | linear: how lr follows global_batch / lr_base_batch
    c.schedule = "cosine"  # cosine (as transformers writes it) | deepspeed_cosine
    c.warmup_steps = 2_000
    c.end_lr = 0.0  # floor, as a share of the peak
    c.b1 = 0.9
    c.b2 = 0.95
    c.eps = 1e-8
    c.wd = 0.0  # per step and unit of learning rate; biases, norms, class token, latent and temperature never decay
    c.clip_norm = 1.0  # global norm of all gradients; 0: no clipping
    c.skip_spikes = 0.0  # skip the update where the gradient norm is above so many times the median of the last 64
    # steps that were not skipped; 0: spikes are clipped and told of, not skipped
    c.layer_decay = 1.0  # learning rate of block i times layer_decay ** (depth - i); patches and positions one more
    c.zero1 = False  # cut the moments over the data axis (ZeRO stage 1): less memory, one more gather a step
    c.ema_decay = 0.0  # per step, exponential average of the trained weights for evaluation and export; 0: none
    return c


def data() -> ConfigDict:
    """Where pairs come from and what happens to a picture on its way into the step."""
    c = ConfigDict()
    c.train = ""  # shards ("{00000..00099}.tar", a glob, a folder of tars), a folder of pictures with captions.csv or
    # captions.jsonl, or "emoji:train" (the shipped pairs; "emoji:dev/train" is their development split)
    c.mix = ()  # "weight=shards or folder" each, weights like 0.7 or 1/3 that add up to 1, in place of `train`
    c.caption_field = "txt"  # txt: the .txt member; else a field of the .json member: a string or a list of strings
    c.captions = "random"  # random | first | joined: which of a picture's several captions a visit takes; joined: all
    # of them as one text (live text only)
    c.uid_list = ""  # use only the pairs of shards whose uid it names (docs/data-shards.md); "": all pairs
    c.uid_repeats = "multiplicity"  # once | multiplicity: a uid that the list names n times is one sample, or n
    c.shard_window = 0  # shards read at a time, for object stores; 0: samples of all shards mixed (docs/data-order.md)
    c.hard_share = 0.0  # of each batch's rows, drawn from captions that are alike (cached text only), in [0, 1)
    c.hard_clusters = 0  # groups of captions for that; 0: the square root of the number of pairs, at most 1,024
    c.policy = "clean"  # clean | reference: how alpha, 16-bit grey and EXIF are treated, decisions in docs/data.md
    c.resize = "shortest"  # evaluation: shortest side to image_size then centre crop, or squash
    c.mean = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP, RGB in [0, 1]
    c.std = (0.26862954, 0.26130258, 0.27577711)
    c.crop_scale = (0.9, 1.0)  # RandomResizedCrop: share of the picture's area
    c.crop_ratio = (0.75, 4 / 3)  # width / height
    c.flip = 0.0  # probability of a horizontal flip
    c.color_jitter = 0.0  # strength of brightness, contrast and saturation changes; 0: none
    c.grayscale = 0.0  # probability of dropping colour
    c.rotate = 0.0  # degrees; uniform in [-rotate, rotate], corners filled with white
    c.resize_on = "host"  # host | device: who resizes the crops (docs/input-speed.md); device: inside the step
    c.canvas = 512  # resize_on=device: side in pixels of the square that each crop is sent in; longer ones are reduced
    c.workers = 0  # decoding processes a host; 0 decodes in threads of this one
    c.threads = 2  # decoding threads a process
    c.prefetch = 4  # host batches decoded ahead
    c.cache_decoded_mib = 0  # memory for decoded pictures a process (small data sets); 0: decode at every visit
    c.max_image_mib = 32  # encoded size above which a picture is refused before decoding
    c.max_pixels = 67_108_864  # width x height above which a picture is refused before decoding
    c.max_aspect = 20.0  # longer side / shorter side above which a picture is refused before decoding; 0: none
    c.min_side = 2  # pixels of the shorter side under which a picture (a tracking pixel) is refused before decoding
    c.max_bad_fraction = 0.01  # of the samples of a window of 10,000; more ends the run with exit code 4
    return c


def evaluation() -> ConfigDict:
    """What is measured during and after training."""
    c = ConfigDict()
    c.every = 1_000  # steps between evaluations; 0: only at the end
    c.sets = ()  # "name=shards or folder" each, read like data.train
    c.caption_field = "txt"
    c.tasks = ()  # benchmarks: imagenet, flickr30k, coco, datacomp38..., or "name=data" each (docs/evaluation.md)
    c.tasks_every = 0  # steps between their evaluations; 0: only at the end
    c.data_root = ""  # folder that the benchmarks' data lies in; "": the current one
    c.batch = 256  # pictures embedded at a time and device
    c.templates = ("{}",)  # zero-shot prompts; {} is the class name
    c.class_field = ""  # json field that names a picture's class; "": no zero-shot
    c.best_metric = ""  # metric whose best checkpoint is kept beside the newest; "": newest only
    return c


def checkpoint() -> ConfigDict:
    """When the run is saved and what is kept."""
    c = ConfigDict()
    c.every = 1_000  # steps
    c.keep = 2  # newest checkpoints kept
    return c


def log() -> ConfigDict:
    """What is written while training."""
    c = ConfigDict()
    c.every = 50  # steps between lines of metrics.jsonl and of the progress
    c.block_stats_steps = 500  # first steps that also log each block's rms and its largest attention logit; with
    # init_from a line warns where they, or the loss, grow (lit_tune/watch.py)
    return c


def watchdog() -> ConfigDict:
    """How long the run stands still before it is ended with exit code 75, to be restarted (docs/reliability.md)."""
    c = ConfigDict()
    c.step_s = 120.0  # seconds of a step, or of waiting for a batch; 10 median steps where that is more
    c.phase_s = 3_600.0  # seconds without a sign of life in compiling, restoring, saving, evaluating
    c.join_s = 300  # seconds that the processes of a run wait for each other at their start
    return c
