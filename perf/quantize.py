"""Our 4-bit methods beside llm-compressor's on the same tokens: CPU seconds, peak memory, perplexity and KL divergence.

    python perf/quantize.py --peer-python VENV/bin/python     # SmolLM2-135M, 16 x 512 tokens, groups of 64: ten minutes
    python perf/quantize.py --shape 1.1b                      # memory alone, on random weights of TinyLlama's shape
    python perf/quantize.py --shape 7b --layers 32            # and of Mistral 7B's (14.5 GB on the disk while it runs)

The model is the quickstart's, the text what allofplos's articles say. Each program runs as a fresh process on one thread;
theirs is timed without start-up and loading, ours with both. What each made is measured by the same lines of
`peers/llm_compressor.py`, on the same sequences, none of which calibrated. The peer's environment: ``pip install
llmcompressor``.
"""

import sys
from pathlib import Path

from merge import shape_for

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parent / "peers")]


RESULTS = Path(__file__).parent / "results" / "quantize.json"
PEER = Path(__file__).parent / "peers" / "llm_compressor.py"
METHODS = ("awq", "awq-gptq", "gptq", "rtn")
SAMPLES, LENGTH, EVALUATION, GROUP = 16, 512, 8, 64
SHAPES = {"1.1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
                   "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32000},
          "7b": shape_for(7.24e9)}
