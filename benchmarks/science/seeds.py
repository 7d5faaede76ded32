"""Named seeds of everything that is drawn here, apart from each other and from all tuning.

Frame ``k`` of a purpose has the seed ``SEEDS[purpose] + k``; a purpose has room for 100 000 frames. Test
seeds are used nowhere else: no setting of a method was chosen with these frames.
"""

from __future__ import annotations

SEEDS: dict[str, int] = {
    "reference": 20_100_000,  # frames that train and calibrate
    "clean": 22_200_000,  # clean test frames of AUROC
    "conditions": 22_300_000,  # 1000 apart for each row
    "ablation": 21_400_000,  # the same rows: test frames do not decide on groups
    "exchangeable": 22_400_000,
    "shifts": 22_500_000,
    "sizes": 22_600_000,
    "fwhm": 22_700_000,
    "background": 22_800_000,
    "archive": 20_900_000,
    "archive_reference": 21_000_000,
    "training": 5,  # of the methods' own generators
    "splits": 21_100_000,  # random splits of the real frames
    "injected": 21_200_000,  # places and noise of defects in real frames
    "regions": 21_800_000,  # random splits of the real frames, for region groups
    "strata": 21_700_000,  # frames under two skies
    "lines": 24_000_000,  # frames with a line
    "cost": 21_300_000,
    "nights": 24_500_000,  # frames of cameras with few references, 1000 apart
    "slopes": 24_700_000,  # frames whose sky tilts
    "training_options": 25_100_000,  # references and test frames of the options
    "overscan": 24_300_000,  # sets of frames with overscan, 1000 apart for each draw
    "photutils": 24_900_000,  # frames of another simulator, 1000 apart for each camera
    "catalogue": 25_300_000,  # frames whose sources are detected
    "stack": 25_100_000,  # frames of one field, five of them spoilt
    "stack_reference": 25_200_000,  # good frames of the same camera
    "transients": 25_100_000,  # pairs of frames without a change
    "light_curves": 25_000_000,  # series of one field, 1000 apart for each draw
    "zero_points": 25_200_000,  # frames with clouds, 1000 apart for each draw
    "skies": 27_400_000,  # frames whose sky departs in shape or level, 1000 apart for each draw
    "references": 21_600_000,  # sets of reference frames, 100 apart for each camera
}
