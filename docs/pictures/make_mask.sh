#!/bin/sh
# Make mask.png, the picture of the README: a simulated frame with a cloud, a ghost and a hot column, and its mask.
# A few minutes on two cores; needs aqdask with the extra `plots`.
#
#     sh docs/pictures/make_mask.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
aqdask demo "$work/demo" --size 2048
aqdask mask "$work/demo/demo.zarr" --alpha 0.01 --pictures "$work/pictures"
# Smaller than the page shows it, in 24 colours: a README is fetched often.
python3 -c "
import sys
from PIL import Image
picture = Image.open(sys.argv[1]).convert('RGB')
picture.thumbnail((640, 640), Image.Resampling.LANCZOS)
picture.quantize(24, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
" "$work/pictures/frame_022.png" "$here/mask.png"
