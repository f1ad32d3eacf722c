"""Encoders of real size by their names in `calor-suite`, and the ids that they are given."""

# Layers, hidden, sequences, tokens of each.
ENCODERS = {
    "large 1x32": (24, 1024, 1, 32),
    "large 1x512": (24, 1024, 1, 512),
    "large 32x512": (24, 1024, 32, 512),
    "base 1x32": (12, 768, 1, 32),
    "base 320x50": (12, 768, 320, 50),
    "base 32x512": (12, 768, 32, 512),
    "minilm 64x128": (6, 384, 64, 128),
}
WORDS = 30_522


def head_count(hidden):
    return 12 if hidden == 384 else hidden // 64


def made_ids(torch, sequences, length):
    rows = torch.arange(sequences * length)
    return ((rows * 7919 + 13) % WORDS).reshape(sequences, length)
