"""The usual methods as compiled loops: one reading of a chunk, where `methods` makes one for each operation; the same bits."""
