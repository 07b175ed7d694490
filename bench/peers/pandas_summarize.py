"""What somebody writes who knows pandas: a histogram of each band of a pixel table, and its numbers.

python bench/peers/pandas_summarize.py TABLE.csv FOLDER
"""

import json
import sys
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt

folder = Path(sys.argv[2])
folder.mkdir(parents=True)
table = pd.read_csv(sys.argv[1])
found = {}
for band, values in table.groupby("band")["value"]:
    plt.figure(figsize=(8, 4.5), dpi=150)
    plt.hist(values, bins=256)
    plt.savefig(folder / f"band_{band}.png")
    plt.close()
    found[band] = values.describe(percentiles=[0.02, 0.5, 0.98]).to_dict()
plt.figure(figsize=(8, 4.5), dpi=150)
for band, values in table.groupby("band")["value"]:
    plt.hist(values, bins=256, histtype="step", label=f"band {band}")
plt.legend()
plt.savefig(folder / "all_bands.png")
(folder / "summary.json").write_text(json.dumps(found))
