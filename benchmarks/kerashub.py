"""Backbones of KerasHub: what of them can be pruned, and how exactly.

    KERAS_BACKEND=torch python benchmarks/kerashub.py [name ...] [--reasons]

Each is made of a small random config, with random weights, biases and
normalizations too, and a `Dense` on every output, as tasks have one. What is
measured: `_pruned_models.py`.
"""

from __future__ import annotations

import keras
import keras_hub
import numpy as np
from _pruned_models import Case, main, random_inputs, randomize

ENCODER = {
    "vocabulary_size": 60,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 32,
    "intermediate_dim": 128,
    "max_sequence_length": 16,
}
NO_LENGTH = {k: v for k, v in ENCODER.items() if k != "max_sequence_length"}
DECODER = {
    "vocabulary_size": 60,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 32,
    "intermediate_dim": 96,
}
GEMMA = {**DECODER, "head_dim": 8, "layer_norm_epsilon": 1e-6}
MOE = {
    **DECODER,
    "head_dim": 8,
    "moe_intermediate_dim": 48,
    "num_experts": 4,
    "top_k": 2,
}
VIT = {
    "image_shape": (28, 28, 3),
    "patch_size": 4,
    "num_layers": 2,
    "hidden_dim": 32,
    "num_heads": 4,
    "intermediate_dim": 128,
    "use_mha_bias": True,
}
RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 64, 64],
    "stackwise_num_blocks": [2, 2, 2],
    "stackwise_num_strides": [1, 2, 2],
    "block_type": "bottleneck_block",
    "use_pre_activation": False,
    "image_shape": (32, 32, 3),
}
MIT = {
    "layerwise_depths": [2, 2],
    "image_shape": (32, 32, 3),
    "hidden_dims": [16, 32],
    "num_layers": 2,
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [8, 4],
    "max_drop_path_rate": 0.1,
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
}
CLIP_TOWERS = (16, 32, 2, 4, 128), (60, 32, 32, 2, 4, 128)
HGNET = {
    "embedding_size": 32,
    "stem_channels": [3, 16, 32],
    "hidden_act": "relu",
    "use_learnable_affine_block": False,
    "image_shape": (64, 64, 3),
    "depths": [1, 1],
    "hidden_sizes": [64, 128],
    "stackwise_stage_filters": [[32, 16, 64, 1, 1, 3], [64, 32, 128, 1, 1, 3]],
    "apply_downsample": [False, True],
    "use_lightweight_conv_block": [False, False],
    "out_features": ["stem", "stage1", "stage2"],
}
T5GEMMA = {
    "vocabulary_size": 60,
    **{
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {
            "hidden_dim": 32,
            "intermediate_dim": 96,
            "num_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        }.items()
    },
    "dropout_rate": 0.1,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 1.0,
    "attention_bias": False,
    "hidden_activation": "gelu_approximate",
    "sliding_window": 16,
    "cross_attention_hidden_size": 32,
    "attn_logit_softcapping": 50.0,
    "rope_max_wavelength": 10000.0,
    "initializer_range": 0.04,
    "attention_dropout": 0.1,
}
DINO = {
    "patch_size": 14,
    "num_layers": 2,
    "hidden_dim": 32,
    "num_heads": 4,
    "intermediate_dim": 128,
    "layer_scale_init_value": 1.0,
    "num_register_tokens": 4,
    "image_shape": (70, 70, 3),
}


def _towers(name: str):
    """A vision and a text encoder, from classes that are not exported."""
    module = {
        "CLIP": "clip.clip",
        "SigLIP": "siglip.siglip",
        "MetaCLIP2": "metaclip_2.metaclip_2",
    }[name]
    found = []
    for side, arguments in zip(("Vision", "Text"), CLIP_TOWERS, strict=True):
        path = f"keras_hub.src.models.{module}_{side.lower()}_encoder"
        encoder = getattr(
            __import__(path, fromlist=["x"]), f"{name}{side}Encoder"
        )
        kwargs = {"image_shape": (32, 32, 3)} if side == "Vision" else {}
        found.append(
            encoder(*arguments, name=f"{side.lower()}_encoder", **kwargs)
        )
    return {"vision_encoder": found[0], "text_encoder": found[1]}


MODELS = keras_hub.models
CONFIGS = {
    # Encoders of text.
    "Albert": {
        **ENCODER,
        "num_groups": 1,
        "num_inner_repetitions": 1,
        "embedding_dim": 16,
    },
    "Bert": ENCODER,
    "DebertaV3": ENCODER,
    "DistilBert": ENCODER,
    "Electra": {
        **{k: v for k, v in ENCODER.items() if k != "vocabulary_size"},
        "vocab_size": 60,
        "embedding_dim": 16,
    },
    "ESM": NO_LENGTH,
    "FNet": {k: v for k, v in ENCODER.items() if k != "num_heads"},
    "Roberta": ENCODER,
    "RoformerV2": {**NO_LENGTH, "head_size": 8},
    "XLMRoberta": ENCODER,
    "XLNet": NO_LENGTH,
    # Decoders.
    "Bloom": NO_LENGTH,
    "Falcon": {
        **{k: v for k, v in NO_LENGTH.items() if k != "num_heads"},
        "num_attention_heads": 4,
    },
    "Gemma": GEMMA,
    "Gemma3": {
        **GEMMA,
        "image_size": 16,
        "use_query_key_norm": True,
        "vision_encoder": None,
    },
    "GPT2": ENCODER,
    "GPTNeoX": ENCODER,
    "GptOss": {**DECODER, "num_experts": 2, "top_k": 2, "sliding_window": 2},
    "Llama": DECODER,
    "Llama3": DECODER,
    "Mistral": {**DECODER, "sliding_window": 4},
    "Mixtral": {**DECODER, "num_experts": 2, "top_k": 2, "sliding_window": 4},
    "OPT": ENCODER,
    "Phi3": DECODER,
    "Qwen": DECODER,
    "Qwen3": {**DECODER, "head_dim": 8},
    "Qwen3Moe": MOE,
    "QwenMoe": {
        **{k: v for k, v in MOE.items() if k != "head_dim"},
        "shared_expert_intermediate_dim": 48,
    },
    "RWKV7": {
        "vocabulary_size": 60,
        "hidden_size": 32,
        "num_layers": 2,
        "head_size": 8,
        "intermediate_dim": 128,
        "gate_lora": 16,
        "mv_lora": 16,
        "aaa_lora": 16,
        "decay_lora": 16,
    },
    "SmolLM3": {
        "vocabulary_size": 60,
        "hidden_dim": 32,
        "intermediate_dim": 96,
        "num_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_layer_enabled_list": [True, True],
        "layer_types": ["attention", "attention"],
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": 128,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
    },
    # Encoders with decoders, sound.
    "Bart": ENCODER,
    "Moonshine": {
        "vocabulary_size": 60,
        "filter_dim": 32,
        "encoder_num_layers": 2,
        "decoder_num_layers": 2,
        "hidden_dim": 32,
        "intermediate_dim": 128,
        "encoder_num_heads": 4,
        "decoder_num_heads": 4,
        "feedforward_expansion_factor": 4,
        "decoder_use_swiglu_activation": True,
    },
    "T5": NO_LENGTH,
    "T5Gemma": T5GEMMA,
    "Whisper": {
        **NO_LENGTH,
        "max_encoder_sequence_length": 12,
        "max_decoder_sequence_length": 12,
    },
    # Images: transformers.
    "CLIP": lambda: {**_towers("CLIP"), "projection_dim": 32},
    "DeiT": VIT,
    "DINOV2": {
        **DINO,
        "use_swiglu_ffn": False,
        "position_embedding_shape": (70, 70),
    },
    "DINOV3": {
        **DINO,
        "patch_size": 16,
        "use_gated_mlp": False,
        "image_shape": (64, 64, 3),
    },
    "MetaCLIP2": lambda: {**_towers("MetaCLIP2"), "projection_dim": 32},
    "MiT": MIT,
    "SegFormer": lambda: {
        "image_encoder": MODELS.MiTBackbone(**MIT),
        "projection_filters": 32,
    },
    "SigLIP": lambda: _towers("SigLIP"),
    "SwinTransformer": {
        "image_shape": (32, 32, 3),
        "embed_dim": 32,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_size": 4,
    },
    "VideoPrism": {
        "image_shape": (28, 28, 3),
        "num_frames": 4,
        "patch_size": 4,
        "hidden_dim": 32,
        "intermediate_dim": 128,
        "num_heads": 4,
        "num_spatial_layers": 1,
        "num_temporal_layers": 1,
        "num_auxiliary_layers": 1,
        "vocabulary_size": 0,
        "num_text_layers": 0,
    },
    "ViT": {
        **{k: v for k, v in VIT.items() if k != "intermediate_dim"},
        "patch_size": (4, 4),
        "mlp_dim": 128,
    },
    "ViTDet": {
        "image_shape": (32, 32, 3),
        "patch_size": 4,
        "hidden_size": 32,
        "num_layers": 2,
        "global_attention_layer_indices": [1],
        "intermediate_dim": 128,
        "num_heads": 4,
        "num_output_channels": 16,
        "window_size": 2,
    },
    # Images: convolutions.
    "CSPNet": {
        "stem_filters": 32,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_strides": 2,
        "stackwise_depth": [1, 2, 4],
        "stackwise_num_filters": [16, 24, 48],
        "image_shape": (32, 32, 3),
        "down_growth": True,
        "bottle_ratio": (0.5, 1.0),
        "block_ratio": (1.0, 0.5),
        "expand_ratio": (2.0, 1.0),
        "block_type": "dark_block",
        "stage_type": "csp",
        "stem_padding": "same",
    },
    "DeepLabV3": lambda: {
        "image_encoder": MODELS.ResNetBackbone(
            **{**RESNET, "image_shape": (96, 96, 3)}
        ),
        "low_level_feature_key": "P2",
        "spatial_pyramid_pooling_key": "P4",
        "dilation_rates": [6, 12, 18],
        "upsampling_size": 4,
        "image_shape": (96, 96, 3),
    },
    "DenseNet": {
        "stackwise_num_repeats": [2, 4, 4],
        "compression_ratio": 0.5,
        "growth_rate": 8,
        "image_shape": (32, 32, 3),
    },
    "EfficientNet": {
        "stackwise_kernel_sizes": [3, 3, 3],
        "stackwise_num_repeats": [2, 2, 2],
        "stackwise_input_filters": [16, 16, 24],
        "stackwise_output_filters": [16, 24, 32],
        "stackwise_expansion_ratios": [1, 4, 4],
        "stackwise_squeeze_and_excite_ratios": [0.0, 0.25, 0.25],
        "stackwise_strides": [1, 2, 2],
        "stackwise_block_types": ["fused", "unfused", "unfused"],
        "stackwise_force_input_filters": [0] * 3,
        "stackwise_nores_option": [False] * 3,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "image_shape": (32, 32, 3),
    },
    "HGNetV2": HGNET,
    "MobileNet": {
        "stackwise_expansion": [[40, 56], [64, 144]],
        "stackwise_num_blocks": [2, 2],
        "stackwise_num_filters": [[16, 16], [24, 24]],
        "stackwise_kernel_size": [[3, 3], [5, 5]],
        "stackwise_num_strides": [[2, 1], [2, 1]],
        "stackwise_se_ratio": [[None, None], [0.25, 0.25]],
        "stackwise_activation": [["relu", "relu"], ["hard_swish"] * 2],
        "stackwise_padding": [[1, 1], [2, 2]],
        "output_num_filters": 128,
        "input_activation": "hard_swish",
        "output_activation": "hard_swish",
        "input_num_filters": 16,
        "image_shape": (32, 32, 3),
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "squeeze_and_excite": 0.5,
        "last_layer_filter": 128,
    },
    "MobileNetV5": {
        "stackwise_block_types": [["er"], ["uir", "uir"]],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_filters": [[24], [48, 48]],
        "stackwise_strides": [[2], [2, 1]],
        "stackwise_act_layers": [["relu"], ["relu", "relu"]],
        "stackwise_exp_ratios": [[4.0], [6.0, 6.0]],
        "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
        "stackwise_dw_kernel_sizes": [[0], [5, 5]],
        "stackwise_dw_start_kernel_sizes": [[0], [0, 0]],
        "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
        "stackwise_exp_kernel_sizes": [[3], [0, 0]],
        "stackwise_pw_kernel_sizes": [[1], [0, 0]],
        "stackwise_num_heads": [[0], [0, 0]],
        "stackwise_key_dims": [[0], [0, 0]],
        "stackwise_value_dims": [[0], [0, 0]],
        "stackwise_kv_strides": [[0], [0, 0]],
        "stackwise_use_cpe": [[False], [False, False]],
        "image_shape": (32, 32, 3),
        "stem_size": 16,
        "use_msfa": False,
    },
    "ResNet": RESNET,
    "RetinaNet": lambda: {
        "image_encoder": MODELS.ResNetBackbone(
            **{
                **RESNET,
                "stackwise_num_filters": [64, 64, 64, 64],
                "stackwise_num_blocks": [2, 2, 2, 2],
                "stackwise_num_strides": [1, 2, 2, 2],
                "image_shape": (128, 128, 3),
            }
        ),
        "min_level": 3,
        "max_level": 7,
        "use_p5": True,
    },
    "VGG": {
        "stackwise_num_repeats": [2, 2, 2],
        "stackwise_num_filters": [16, 32, 64],
        "image_shape": (32, 32, 3),
    },
    "Xception": {
        "stackwise_conv_filters": [[16, 32], [64, 64], [96, 96]],
        "stackwise_pooling": [False, True, False],
        "image_shape": (48, 48, 3),
    },
}
SOUND = {"Whisper": 12, "Moonshine": 2000}  # Lengths of sound.
LONG = {"SigLIP": 64, "RetinaNet": 128}  # Other lengths, or sizes of images.


def made(name: str) -> Case:
    """Makes a backbone with a head on each output."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    config = CONFIGS[name]
    config = config() if callable(config) else config
    backbone = getattr(MODELS, f"{name}Backbone")(**config)
    heads: dict[int, object] = {}

    def head(tensor: keras.KerasTensor) -> keras.KerasTensor:
        if id(tensor) not in heads:
            free = "float" in tensor.dtype and tensor.shape[-1] is not None
            made = keras.layers.Dense(3)(tensor) if free else tensor
            heads[id(tensor)] = made
        return heads[id(tensor)]

    outputs = keras.tree.map_structure(head, backbone._outputs_struct)
    model = keras.Model(backbone._inputs_struct, outputs, name=name.lower())
    randomize(model)
    return Case(model, inputs_for(model, name), lengths_of(name, model))


def lengths_of(name: str, model: keras.Model) -> dict[str, int] | None:
    """Returns a length for inputs of unknown ones."""
    if not any(None in tensor.shape[1:] for tensor in model.inputs):
        return None
    return {
        tensor.name: SOUND.get(name, 7)
        if "encoder" in tensor.name and name in SOUND
        else LONG.get(name, 7)
        for tensor in model.inputs
    }


def inputs_for(model: keras.Model, name: str):
    """Returns random inputs, masks of ones."""

    def drawn(tensor, rng):
        sound = name in SOUND and "encoder" in tensor.name
        size = SOUND[name] if sound else LONG.get(name, 7)
        shape = [2, *(size if s is None else s for s in tensor.shape[1:])]
        if "mask" in tensor.name:
            return np.ones(shape, tensor.dtype)
        if "int" in tensor.dtype:
            high = 2 if "segment" in tensor.name else 50
            return rng.integers(0, high, shape).astype(tensor.dtype)
        return rng.normal(size=shape).astype("float32")

    return random_inputs(model, drawn)


if __name__ == "__main__":
    main("backbone", CONFIGS, made, "keras_hub")
