"""Pico models of every architecture that GGUF files are written of, and tokenizers of the kinds they come with."""

import json
from pathlib import Path
from typing import Any

from tiny import TEXT, make_tokenizer

VOCABULARY = 400
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
BIAS = {"attention_bias": True, "mlp_bias": True}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 128,
            "long_factor": [1.5 + 0.1 * step for step in range(8)], "short_factor": [1 + 0.05 * step for step in range(8)]}
SIX = {"num_hidden_layers": 6}  # of Gemma 3's layers the sixth is the first that sees everything
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    "llama wide": ("LlamaConfig", {"head_dim": 32, "tie_word_embeddings": True, **BIAS}),
    "llama 3 rope": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama linear rope": ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "llama yarn": ("LlamaConfig", {"rope_parameters": YARN}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 128}),
    "gemma": ("GemmaConfig", {"head_dim": 32}),
    "gemma2": ("Gemma2Config", {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 16}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 16, **SIX}),
    "phi3": ("Phi3Config", {"sliding_window": None}),
    "phi3 longrope": ("Phi3Config", {"sliding_window": None, "original_max_position_embeddings": 128,
                                     "rope_parameters": LONGROPE}),
}
"""Name -> class of the configuration, and what it is given besides `SHAPE`."""


def make_decoder(folder: Path, name: str, dtype: str = "float32", **changed: Any) -> Path:
    """Save the pico model of that name (random weights, norms and biases too) with a byte-level tokenizer."""
    import torch
    import transformers

    kind, own = DECODERS[name]
    make_tokenizer(folder, VOCABULARY)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = getattr(transformers, kind)(**{**SHAPE, **own, **changed})
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        for parameter in model.parameters():
            parameter.data = parameter.data * 4 if parameter.dim() > 1 else parameter.data + torch.randn(parameter.shape) * 0.3
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def make_pieces(folder: Path, *, prefix: str | None = "normalizer", merges: list[tuple[str, str]] | None = None) -> None:
    """Save a SentencePiece-like tokenizer as transformers converts one: pieces learnt from a text, merges from their order."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    learnt.train_from_iterator([TEXT] * 4, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    order = json.loads(learnt.to_str())["model"]["merges"]
    control = ["<unk>", "<s>", "</s>"]
    pieces = list(dict.fromkeys("".join(merge) for merge in order))
    characters = sorted({character for piece in learnt.get_vocab() for character in piece} - set(pieces))
    names = [*control, *(f"<0x{number:02X}>" for number in range(256)), *pieces, *characters]
    vocabulary = {token: number for number, token in enumerate(names)}
    ways = [(piece[:cut], piece[cut:]) for piece in pieces for cut in range(1, len(piece))
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges or ways, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    if prefix == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    elif prefix is None:
        tokenizer.normalizer = spaces
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prefix, split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    tokenizer.add_tokens([AddedToken("<extra>", normalized=False)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
