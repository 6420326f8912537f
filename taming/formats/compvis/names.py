"""The published code's names of classes, orders and batch entries, and what they are here."""

KINDS = {  # their first stages by kind of quantizer
    "taming.models.vqgan.VQModel": "vector",
    "taming.models.vqgan.VQSegmentationModel": "vector",
    "taming.models.vqgan.VQNoDiscModel": "vector",
    "taming.models.vqgan.GumbelVQ": "gumbel",
    "taming.models.vqgan.EMAVQ": "ema",
    "ldm.models.autoencoder.VQModel": "vector",
    "ldm.models.autoencoder.VQModelInterface": "vector",
}
SECOND_STAGES = ("taming.models.cond_transformer.Net2NetTransformer",)
DIFFUSIONS = (  # models whose checkpoints hold a first stage of theirs
    "ldm.models.diffusion.ddpm.LatentDiffusion",
    "ldm.models.diffusion.ddpm.LatentUpscaleDiffusion",
    "ldm.models.diffusion.ddpm.LatentInpaintDiffusion",
)
CONTINUOUS = ("AutoencoderKL", "IdentityFirstStage", "VAE")  # first stages without codes
GPTS = ("taming.modules.transformer.mingpt.GPT",)
ADVERSARIAL_LOSSES = (
    "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
    "ldm.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
)
MASK_LOSSES = (
    "taming.modules.losses.segmentation.BCELoss",
    "taming.modules.losses.segmentation.BCELossWithQuant",
)
NO_LOSSES = (
    "taming.modules.losses.DummyLoss",
    "taming.modules.losses.vqperceptual.DummyLoss",
    "torch.nn.Identity",
)
CONDITIONS = {
    "taming.modules.misc.coord.CoordStage": "coordinates",
    "taming.modules.util.Labelator": "class",
    "taming.modules.util.SOSProvider": "start",
    "taming.models.dummy_cond_stage.DummyCondStage": "boxes",
}
PERMUTERS = "taming.modules.transformer.permuter"
ORDERS = {
    "Identity": "raster",
    "Subsample": "subsample",
    "ZCurve": "z_curve",
    "SpiralOut": "spiral_out",
    "SpiralIn": "spiral_in",
    "RandomPermute": "shuffled",
    "AlternateParsing": "alternate",
}
KEYS = {  # entries of a batch; others have the same name
    "class_label": "class",
    "coord": "coordinates",
    "objects_bbox": "boxes",
    "objects_center_points": "boxes",
}
EMBEDDINGS = {  # tensors of quantizers
    "embedding.weight": "embedding.weight",
    "embed.weight": "embedding.weight",
    "proj.weight": "proj.weight",
    "proj.bias": "proj.bias",
    "embedding.cluster_size": "counts",
    "embedding.embed_avg": "sums",
}


def our_key(key: str) -> str:
    """A batch entry of theirs by our name."""
    return KEYS.get(key, key)


def published_key(key: str) -> str:
    """A batch entry of ours by their name."""
    return next((name for name, ours in KEYS.items() if ours == key), key)
