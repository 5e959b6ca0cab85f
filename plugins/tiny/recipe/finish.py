"""Step 5 of the recipe: the folder that ships. `python finish.py TUNED_FOLDER BASE_FOLDER OUTPUT_FOLDER`

Casts the weights to bfloat16 and puts the tokenizer, the chat template and the generation settings of BASE_FOLDER beside them,
so that nothing of the machine that trained it is left in the folder.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main(tuned: Path, base: Path, output: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tuned, dtype=torch.bfloat16)
    model.save_pretrained(output)
    for file in base.iterdir():  # config.json too: it is the same one, and in bfloat16
        shutil.copyfile(file, output / file.name)
    (output / "model.safetensors").chmod(0o644)
    size = sum(file.stat().st_size for file in output.iterdir())
    print(f"{output}: {model.num_parameters():,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
