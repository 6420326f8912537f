"""YAML trees of published models."""


def first_tree(
    channels=128,
    multipliers=(1, 1, 2, 2, 4),
    attention=(16,),
    codes=1024,
    dim=256,
    latent=256,
    kind="VQModel",
    inputs=3,
    **params,
):
    net = {
        "double_z": False,
        "z_channels": latent,
        "resolution": 256,
        "in_channels": inputs,
        "out_ch": inputs,
        "ch": channels,
    }
    net |= {
        "ch_mult": list(multipliers),
        "num_res_blocks": 2,
        "attn_resolutions": list(attention),
        "dropout": 0.0,
    }
    loss = {
        "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
        "params": {"disc_start": 10, "disc_weight": 0.8},
    }
    latent_diffusion = kind == "VQModelInterface"
    module = "ldm.models.autoencoder" if latent_diffusion else "taming.models.vqgan"
    return {
        "target": f"{module}.{kind}",
        "params": {
            "embed_dim": dim,
            "n_embed": codes,
            "ddconfig": net,
            "lossconfig": loss,
            **params,
        },
    }


def second_tree(layers, heads, width, vocabulary, block, cond=None, first=None, **params):
    gpt = {
        "vocab_size": vocabulary,
        "block_size": block,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
    }
    node = {
        "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": gpt},
        "first_stage_config": first or first_tree(),
    }
    if cond is not None:
        node["cond_stage_config"] = cond
    return {
        "target": "taming.models.cond_transformer.Net2NetTransformer",
        "params": {**node, **params},
    }


def coord_stage():
    return {
        "target": "taming.modules.misc.coord.CoordStage",
        "params": {"n_embed": 1024, "down_factor": 16},
    }


def dummy_stage(key):
    return {
        "target": "taming.models.dummy_cond_stage.DummyCondStage",
        "params": {"conditional_key": key},
    }


def latent_diffusion_tree(multipliers, codes, dim, attention=(32,)):
    return first_tree(
        multipliers=multipliers,
        attention=attention,
        codes=codes,
        dim=dim,
        latent=dim,
        kind="VQModelInterface",
    )


PUBLISHED = {
    "imagenet_f16_1024": first_tree(),
    "imagenet_f16_16384": first_tree(codes=16384),
    "gumbel_f8": first_tree(
        multipliers=(1, 1, 2, 4), attention=(32,), codes=8192, kind="GumbelVQ", kl_weight=1e-8
    ),
    "depth": first_tree(inputs=1, image_key="depth"),
    "coco_cond_stage": first_tree(
        inputs=183, kind="VQSegmentationModel", n_labels=183, image_key="segmentation"
    ),
    "ldm_vq_f4": latent_diffusion_tree((1, 2, 4), 8192, 3, ()),
    "ldm_vq_f8": latent_diffusion_tree((1, 2, 2, 4), 16384, 4),
    "ldm_vq_f8_n256": latent_diffusion_tree((1, 2, 2, 4), 256, 4),
    "ldm_vq_f16": latent_diffusion_tree((1, 1, 2, 2, 4), 16384, 8, (16,)),
    "sflckr": second_tree(
        24,
        16,
        1024,
        1024,
        512,
        first_tree(inputs=182, image_key="segmentation"),
        cond_stage_key="segmentation",
    ),
    "drin": second_tree(
        24, 16, 1024, 1024, 512, first_tree(inputs=1, image_key="depth"), cond_stage_key="depth"
    ),
    "faceshq": second_tree(24, 16, 1024, 1024, 512, coord_stage(), cond_stage_key="coord"),
    "ffhq": second_tree(
        24, 16, 1664, 1024, 256, "__is_unconditional__", sos_token=0, unconditional=True
    ),
    "cin": second_tree(
        48,
        24,
        1536,
        16384,
        257,
        {"target": "taming.modules.util.Labelator", "params": {"n_classes": 1000}},
        first_tree(codes=16384),
        cond_stage_key="class_label",
    ),
    "coco_scene": second_tree(
        40,
        16,
        1408,
        8192,
        348,
        dummy_stage("objects_bbox"),
        first_tree(codes=8192),
        cond_stage_key="objects_bbox",
    ),
    "same_stage": second_tree(2, 2, 64, 1024, 512, "__is_first_stage__", cond_stage_key="lr"),
}
