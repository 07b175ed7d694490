"""What somebody writes who knows pandas: the pixels of a raster as a CSV file with flatten's six columns.

python bench/peers/pandas_flatten.py SCENE.tif TABLE.csv
"""

import sys

import numpy as np
import pandas as pd
import pyproj
import rasterio

with rasterio.open(sys.argv[1]) as src:
    pixels = src.read()
    row, col = (index.ravel() for index in np.indices(src.shape))
    x, y = rasterio.transform.xy(src.transform, row, col)
    longitude, latitude = pyproj.Transformer.from_crs(src.crs, "EPSG:4326", always_xy=True).transform(x, y)
bands = len(pixels)
table = pd.DataFrame(
    {
        "latitude": np.repeat(latitude, bands),
        "longitude": np.repeat(longitude, bands),
        "row": np.repeat(row, bands),
        "pixel": np.repeat(col, bands),
        "band": np.tile(np.arange(1, bands + 1), row.size),
        "value": pixels.reshape(bands, -1).T.ravel(),
    }
)
table.round({"latitude": 9, "longitude": 9}).to_csv(sys.argv[2], index=False)
