"""Backbones of KerasHub: what of them can be pruned, and how exactly.

    KERAS_BACKEND=torch python benchmarks/kerashub.py [name ...]

Each is made of a small random config, with random weights, biases and
normalizations too, and a `Dense` on every output, as tasks have one. Then it
is measured twice: as it is, and inlined (`ka.inline`). A third of every
prunable group is removed at once; the outputs are compared with those of the
full model in which these units are set to zero (`tests/masking.py`), and the
largest difference is given as a part of the largest output. The small model is
saved, and loaded in a process that does not import this package. *Share* is
the part of the parameters in slices that units of prunable groups own, *with
streams* the same under `prune_normalized=True`. `--reasons` lists why groups
are not prunable.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback

import keras
import keras_hub
import numpy as np

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from keras_apoptosis.graph.groups import Allowed
from keras_apoptosis.utils.tables import table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.masking import masked_outputs, outputs_of

HEADER = (
    "backbone",
    "parameters",
    "as it is: groups",
    "prunable",
    "share",
    "after",
    "difference",
    "loaded",
    "inlined: groups",
    "prunable",
    "share",
    "with streams",
    "after",
    "difference",
    "loaded",
)
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
    "DINOV2": {**DINO, "use_swiglu_ffn": False},
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
LOADER = """
import json, pathlib, sys
import keras, keras_hub
import numpy as np
found = {}
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.keras")):
    with np.load(file.with_suffix(".npz")) as data:
        inputs = [data[f"x{n}"] for n in range(sum("x" in k for k in data))]
        try:
            model = keras.saving.load_model(file)
            given = keras.tree.pack_sequence_as(model._inputs_struct, inputs)
            made = keras.tree.flatten(model(given, training=False))
            found[file.stem] = max(
                float(np.max(np.abs(np.asarray(y) - data[f"y{n}"])))
                for n, y in enumerate(map(keras.ops.convert_to_numpy, made))
                if data[f"y{n}"].dtype != bool
            )
        except Exception as error:
            found[file.stem] = repr(error)[:300]
assert "keras_apoptosis" not in sys.modules
print("RESULT" + json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--reasons", action="store_true")
    arguments = parser.parse_args()
    rows: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or CONFIGS:
            rows[name] = []
            try:
                model = made(name)
                rows[name].append(f"{model.count_params():,}")
                inlined = ka.inline(model, lengths_of(name, model))
                for kind, each in (("", model), ("-inlined", inlined)):
                    file = pathlib.Path(folder, f"{name}{kind}")
                    found = measured(each, file, name, bool(kind))
                    rows[name].extend([*found, ""])  # Loaded, later.
                    if arguments.reasons:
                        tell_reasons(each)
            except Exception as error:
                if arguments.names:
                    traceback.print_exc()
                print(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            print(name, rows[name], flush=True)
        loaded = load_elsewhere(folder)
    for name, row in rows.items():
        for place, kind in ((6, ""), (13, "-inlined")):
            found = loaded.get(f"{name}{kind}", "not saved")
            if len(row) > place:
                exact = isinstance(found, float)
                row[place] = f"{found:.1e}" if exact else found[:60]
    whole = len(HEADER) - 1
    cells = [[n, *row, *["-"] * (whole - len(row))] for n, row in rows.items()]
    print(table(HEADER, cells))


def made(name: str) -> keras.Model:
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
    return model


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


def measured(
    model: keras.Model, file: pathlib.Path, name: str, inlined: bool
) -> list:
    inputs = inputs_for(model, name)
    analysis = analyse(model)
    shares = [f"{share_of(analysis):.0%}"]
    if inlined:
        streams = analyse(model, Allowed(normalized=True))
        shares.append(f"{share_of(streams):.0%}")
    rng = np.random.default_rng(0)
    removal = ka.Removal(
        {
            group.name: np.sort(
                rng.choice(group.size, max(1, group.size // 3), replace=False)
            )
            for group in analysis.groups
            if group.removable and group.size > 1
        }
    )
    expected = masked_outputs(model, removal, keras.tree.flatten(inputs))
    if removal:
        ka.shrink(model, removal)
    found = outputs_of(model, inputs)
    difference = max(
        float(np.max(np.abs(one - other)) / np.max(np.abs(one)))
        for one, other in zip(expected, found, strict=True)
        if one.dtype != bool
    )
    try:
        model.save(file.with_suffix(".keras"))
    except Exception as error:  # A class without a config of its own.
        print(f"{file.name} cannot be saved: {str(error)[:200]}")
    np.savez(
        file.with_suffix(".npz"),
        **{f"x{n}": x for n, x in enumerate(keras.tree.flatten(inputs))},
        **{f"y{n}": y for n, y in enumerate(found)},
    )
    return [
        len(analysis.groups),
        sum(group.removable for group in analysis.groups),
        *shares,
        f"{model.count_params():,}",
        f"{difference:.1e}",
    ]


def tell_reasons(model: keras.Model) -> None:
    reasons = collections.Counter(
        group.reason for group in ka.unit_groups(model) if group.reason
    )
    for reason, count in reasons.most_common(20):
        print(f"   {count} x {reason[:300]}")


def share_of(analysis) -> float:
    """The part of the parameters that units of prunable groups own."""
    prunable = np.append([g.removable for g in analysis.groups], False)
    group_of = np.append(analysis.group_of, -1)
    owned = 0
    weights = analysis.graph.model.weights
    for variable in weights:
        axes = analysis.trace.axes.get(id(variable), {})
        free = np.zeros(tuple(variable.shape), bool)
        for axis, labels in axes.items():
            mine = prunable[group_of[labels]]
            shape = [1] * free.ndim
            shape[axis] = mine.size
            free |= mine.reshape(shape)
        owned += int(free.sum())
    return owned / sum(math.prod(v.shape) for v in weights)


def randomize(model: keras.Model) -> None:
    """Gives every weight, biases and normalizations too, a random value."""
    rng = np.random.default_rng(1)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "float" not in variable.dtype:
            continue
        if "variance" in variable.path:
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) < 2:
            value = rng.choice([-1, 1], shape) * rng.uniform(0.3, 1.0, shape)
        else:
            value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        variable.assign(value)


def inputs_for(model: keras.Model, name: str):
    length = LONG.get(name, 7)
    rng = np.random.default_rng(2)

    def one(tensor):
        sound = name in SOUND and "encoder" in tensor.name
        size = SOUND[name] if sound else length
        shape = [2, *(size if s is None else s for s in tensor.shape[1:])]
        if "mask" in tensor.name:
            return np.ones(shape, tensor.dtype)
        if "int" in tensor.dtype:
            high = 2 if "segment" in tensor.name else 50
            return rng.integers(0, high, shape).astype(tensor.dtype)
        return rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(one, model._inputs_struct)


def load_elsewhere(folder: str) -> dict:
    path = [p for p in sys.path if p and "kerashub" in p]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, folder],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            return json.loads(line.removeprefix("RESULT"))
    return {"": done.stderr[-2000:]}


if __name__ == "__main__":
    main()
