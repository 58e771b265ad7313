"""Tiny real things for the tests: a pico model with a real tokenizer, saved as any Hugging Face model is."""

from pathlib import Path

TEXT = (
    "The following are multiple choice questions (with answers) about medical knowledge. "
    "What is the description of the medical code E11.9 in ICD10CM? Type 2 diabetes mellitus without complications. "
    "Question: Answer: A B C D yes no maybe heart lung kidney liver brain fever cough pain acute chronic disease. "
    "Category I10 is essential hypertension; aspirin 100 mg daily, metformin 500 mg twice a day. ÄÖÜ é ß 中文 العربية "
)


def make_tokenizer(folder: Path, vocab_size: int = 400) -> None:
    """Train a byte-level BPE tokenizer on a few sentences and save it, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                                   pad_token="</s>")
    fast.chat_template = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    fast.save_pretrained(folder)


def make_model(folder: Path, seed: int = 0, layers: int = 2, hidden: int = 64, vocab_size: int = 400,
               dtype: str = "float32", architecture: str = "llama", tied: bool = True) -> Path:
    """Save a pico model (random weights, real architecture) with its tokenizer; returns the folder."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

    make_tokenizer(folder, vocab_size)
    config_class = {"llama": LlamaConfig, "mistral": MistralConfig}[architecture]
    config = config_class(vocab_size=vocab_size, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
                          num_attention_heads=4, num_key_value_heads=2, head_dim=hidden // 4, max_position_embeddings=512,
                          tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder
