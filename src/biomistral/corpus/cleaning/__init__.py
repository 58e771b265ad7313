"""What leaves a corpus: poor texts, copies, and what the benchmarks ask."""
