"""Settings and figures of the papers, table by table; `reproduce.py` turns them into commands.

A figure is here only if a text at hand prints it, and a setting says where it comes from:

[paper]   D. de Albuquerque and J. Pearson, Inflationary Flows, 2024, or the README of its code
[i-DODE]  K. Zheng et al., Improved Techniques for Maximum Likelihood Estimation for Diffusion
          ODEs, 2023, or the README of its code
[ours]    not in the texts at hand; chosen here

Scales: "smoke" takes minutes on two cores, on toys and 8x8 digits; "small" about a day on one GPU;
"paper" is the published budget, weeks on 4 to 8 GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SCALES = ("smoke", "small", "paper")
Options = tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A published number and, where it is printed, its spread (2 sd over 3 seeds)."""

    value: float
    spread: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.2f}" + (f" ± {self.spread:.2f}" if self.spread is not None else "")


def figures(values: str, spreads: str) -> dict[int, Figure]:
    """One row of the tables over D_KEPT."""
    pairs = zip(values.split(), spreads.split(), strict=True)
    return {d: Figure(float(v), float(s)) for d, (v, s) in zip(D_KEPT, pairs, strict=True)}


# ------------------------------------------------------------------------------------------ toys
TOYS = {"circles": 2, "sine2": 2, "moons": 2, "s_curve": 3, "swirl": 3}  # [paper]; dimensions
# tmax of the circles [paper], of the other sets [ours: the same].
PRESERVING: Options = ("--tmax=7.01",)
# [paper] for the nets of coverage and HMC on circles; for the rest [ours: the same]. The paper's
# latent variances of compressed dimensions, 1e-2 (circles) and 2.5e-3 (S-curve), are not passed on:
# each network's schedule has its own, .011 for circles.
REDUCING: Options = ("--g_type=orig", "--g_rescaling=0.15", "--rho=1", "--tmax=15.01")
TOY_TRAINING: Mapping[str, Options] = {
    "smoke": ("--duration=2",),  # [ours] ToyMLP
    "small": (),  # [ours] ToyMLP for 10 Mimg, the defaults of toy_train.py
    # Batch, rate and EMA [paper]; warm-up and duration: the defaults of its code [paper].
    "paper": (
        "--arch=ToyConvUNet",
        "--batch=8192",
        "--lr=1e-5",
        "--ema=0.5",
        "--lr_rampup=10",
        "--duration=7000",
    ),
}
EULER_STEP = 0.01  # [paper]; steps = tmax / .01
TOY_SAMPLES = {"smoke": 2000, "small": 4000, "paper": 4000}  # [ours]

# -------------------------------------------------------------------------------------- coverage
COVERAGE_SETS: Mapping[str, tuple[str, ...]] = {
    "smoke": ("circles",),  # boundaries in 3-D take minutes
    "small": ("circles", "s_curve"),
    "paper": ("circles", "s_curve"),
}
COVERAGE: Mapping[str, Options] = {
    "smoke": ("--test_pts=10000",),  # [ours]
    "small": (),  # 20,000 points, 7 radii [paper]; boundaries carried by the flow [ours]
    "paper": ("--boundary=alphashape", "--test_pts=20000", "--boundary_pts=200"),  # [paper]
}

# ------------------------------------------------------------------------------------------- hmc
HMC_DATA = {"smoke": 500, "small": 2000, "paper": 2000}  # [paper]; smoke [ours]
HMC: Mapping[str, Options] = {
    "smoke": ("--mcmc_n=400", "--burn=100", "--chains=2"),  # [ours]
    "small": (),  # data-space proposals, 4 chains of 1500 draws [ours]
    # L, acceptance, burn-in, thinning and prior [paper]; the chains' number [ours].
    "paper": (
        "--sampler=hamiltorch", "--prior=improper", "--mcmc_n=1500", "--burn=500",
        "--traj_length=15", "--acpt=0.8", "--thin=5", "--chains=1",
    ),
}  # fmt: skip
EXACT_POSTERIOR: Mapping[str, Options] = {
    "smoke": ("--grid=200", "--mcmc_n=1000", "--burn=50", "--chains=2"),
    "small": (),
    "paper": ("--prior=improper",),
}
HMC_STEP = {"PRP": 0.01, "PRR": 0.001}  # [paper], of hamiltorch
HMC_DRAWS = {"PRP": "815 draws", "PRR": "230 draws"}  # [paper], after 2 to 4 weeks of burn-in
HMC_SECONDS = 2400.0  # [paper] a draw: 40 minutes
WEIGHTS = (0.5, 0.25, 0.25)  # [paper] that the data are drawn with

# ---------------------------------------------------------------------------------- correlations
CORRELATIONS: Mapping[str, Options] = {
    "smoke": ("--h=0.1", "--n_samples=2000"),  # [ours]
    "small": ("--h=0.1", "--n_samples=10000"),  # [ours]
    "paper": ("--h=0.01", "--n_samples=10000"),  # [paper]; times up to tmax
}
IMAGE_CORRELATIONS: Mapping[str, Options] = {
    "smoke": ("--n_samples=500", "--n_time_pts=16"),  # [ours]
    "small": ("--n_samples=2000", "--n_time_pts=32"),  # [ours]
    "paper": ("--n_samples=50000", "--n_time_pts=256"),  # [paper]; 300 GB of files
}

# ---------------------------------------------------------------------------------------- images
D_KEPT = (1, 2, 30, 62, 307, 615, 1536, 3041, 3072)
SPREADS = {
    "afhqv2 FID": ".07 .06 .02 .18 .10 .07 .12 .13 .08",
    "afhqv2 MSE": ".07 .21 .13 .18 .13 .18 .03 .06 .04",
    "cifar10 FID": ".09 .04 .14 .19 .13 .27 .16 .05 .10",
    "cifar10 MSE": ".10 .11 .08 .24 .02 .03 .06 .02 .03",
}
# [paper]: inflation gap 1.02; FID of 50,000 images, MSE of 10,000, in pixels squared. The code that
# the MSE was computed with squares differences of 8-bit numbers, modulo 256.
FID = {
    "afhqv2": figures(
        "12.65 11.95 13.64 14.05 15.64 14.63 13.36 13.97 11.90", SPREADS["afhqv2 FID"]
    ),
    "cifar10": figures(
        "20.76 21.29 23.36 23.30 28.07 24.49 17.44 16.60 17.01", SPREADS["cifar10 FID"]
    ),
}
MSE = {
    "afhqv2": figures("1.47 1.55 3.79 5.32 3.33 2.42 .14 .28 .38", SPREADS["afhqv2 MSE"]),
    "cifar10": figures("1.07 .81 2.21 2.27 .71 .29 .16 .30 .22", SPREADS["cifar10 MSE"]),
}
# [paper]: AFHQv2, d = 2, by effective inflation gap.
GAP_FID = {1.02: 11.95, 1.10: 13.98, 1.25: 17.84, 1.35: 34.68, 1.50: 107.64}
GAP_MSE = {1.02: 1.55, 1.10: 1.35, 1.25: 1.65, 1.35: 1.19, 1.50: 0.11}
# [paper]: FID of others on CIFAR-10, best of 3 x 10,000 images, d = 30, 40, 62.
OTHERS = {
    "inflationary flow": (23.3, 24.3, 23.2),
    "M-Flow": (541, 536, 281),
    "rectangular flow": (544, 481, 281),
    "canonical manifold flow": (533, 445, 288),
}
# Images at "smoke" are the digits, of 64 dimensions: (dimensions kept, effective gaps).
CASES: Mapping[str, Mapping[str, tuple[tuple[int, float], ...]]] = {
    "smoke": {"digits": (*((d, 1.02) for d in (1, 2, 8, 32, 64)), (2, 1.10), (2, 1.50))},
    "small": {
        "cifar10": tuple((d, 1.02) for d in (2, 30, 307, 3072)),
        "afhqv2": ((2, 1.02), (3072, 1.02), (2, 1.50)),
    },
    "paper": {
        "cifar10": tuple((d, 1.02) for d in D_KEPT),
        "afhqv2": (*((d, 1.02) for d in D_KEPT), *((2, gap) for gap in GAP_FID if gap != 1.02)),
    },
}
# [paper] but the duration: 275 Mimg for CIFAR-10 PRP, 200 to 275 for the rest [ours: 275 and 200].
PAPER_IMAGES: Options = (
    "--cbase=128", "--cres=2,2,2", "--lr=1e-3", "--lr_rampup=10", "--batch=512", "--ema=0.5",
    "--dropout=0.13", "--augment=0.12", "--space=IS", "--tmax=15.01",
)  # fmt: skip
DIGITS: Options = (
    "--cond", "--cbase=16", "--cres=1,2", "--num_blocks=1", "--dropout=0", "--batch=32",
    "--lr=4e-3", "--lr_decay=cosine", "--lr_rampup=0.003", "--ema=0.005", "--duration=0.02",
    "--tick=6", "--t_sampling=arc", "--weighting=arc",
)  # fmt: skip
DIGITS_TMAX = {"PRP": "--tmax=6.51", "PRR": "--tmax=10.01"}  # [ours]: fully inflated by then
IMAGE_TRAINING: Mapping[str, Mapping[str, Options]] = {
    "smoke": {"digits": DIGITS},  # [ours], as `make demo-images`, but less
    "small": dict.fromkeys(  # [ours]
        ("cifar10", "afhqv2"),
        ("--cbase=64", "--lr=1e-3", "--lr_rampup=0.5", "--batch=256", "--ema=0.1", "--duration=10",
         "--bf16", "--tmax=15.01"),
    ),
    "paper": {
        "cifar10": (*PAPER_IMAGES, "--duration=275"),
        "afhqv2": (*PAPER_IMAGES, "--duration=200"),
    },
}  # fmt: skip
IMAGES_MADE = {"smoke": 359, "small": 10_000, "paper": 50_000}  # of a seed; [paper]: 50,000
IMAGES_CARRIED = {"smoke": 128, "small": 1000, "paper": 10_000}  # round trips; [paper]: 10,000
IMAGE_SEEDS = {"smoke": 1, "small": 1, "paper": 3}  # [paper]: 3, which ones is not said
GENERATION: Mapping[str, Options] = {"smoke": (), "small": (), "paper": ("--n_iters=256",)}
ROUND_TRIPS: Mapping[str, Options] = {"smoke": (), "small": (), "paper": ("--n_iters=118",)}
# What dataset_tool.py makes of which source; [paper].
IMAGE_SETS: Mapping[str, tuple[str, str, Options]] = {
    "cifar10": (
        "datasets/cifar10-32x32.zip", "downloads/cifar10/cifar-10-python.tar.gz", (),
    ),
    "afhqv2": ("datasets/afhqv2-32x32.zip", "downloads/afhqv2", ("--resolution=32x32",)),
}  # fmt: skip

# ------------------------------------------------------------------------------------ likelihood
# [i-DODE], bits a dimension. Data set, then what it was trained on: batch size, million steps.
BITS = {
    "CIFAR-10": 2.56,
    "ImageNet-32 (new)": 3.43,
    "ImageNet-32 (old)": 3.69,
    "CIFAR-10, augmented": 2.42,
}
VELOCITY: Options = ("--precond=vp_velocity",)  # [i-DODE]: schedule VP, velocity, importance
LIKELIHOOD_TRAINING: Mapping[str, Options] = {
    "smoke": (*(o for o in DIGITS if "t_sampling" not in o and "weighting" not in o),),  # [ours]
    "small": ("--cbase=64", "--batch=128", "--lr=2e-4", "--lr_rampup=0.5", "--duration=10",
              "--augment=0", "--bf16"),  # [ours]
    # 6M steps of batch 128 = 768 Mimg [i-DODE]; network, rate and dropout are not said [ours].
    "paper": ("--batch=128", "--duration=768", "--lr=2e-4", "--augment=0", "--dropout=0.1"),
}  # fmt: skip
# With augmentation: 1.95M steps of batch 1024, not fine-tuned [i-DODE]; which one [ours].
AUGMENTED: Options = ("--batch=1024", "--duration=1996.8", "--augment=0.12")
# 200,000 steps more with the second-order loss [i-DODE]; the rate [ours].
FINE_TUNING: Options = (
    "--second_order", "--batch=128", "--duration=25.6", "--lr=2e-5", "--augment=0", "--dropout=0.1",
)  # fmt: skip
BITS_OF: Mapping[str, Options] = {
    "smoke": ("--dequantization=tn", "--trace=hutchinson", "--total_samples=128"),  # [ours]
    "small": ("--dequantization=tn", "--trace=hutchinson", "--total_samples=1000"),  # [ours]
    "paper": ("--dequantization=tn", "--num_importance=1", "--trace=hutchinson",
              "--total_samples=10000"),  # [i-DODE] but the number of images [ours]
}  # fmt: skip
DENSITY_SETS = ("circles", "gmm1d")  # toys whose true density is known
DENSITY_SAMPLES = {"smoke": 2000, "small": 10_000, "paper": 10_000}  # [ours]

NOTES: Mapping[str, tuple[str, ...]] = {
    "toys": (
        "The paper shows pictures of these sets and prints no number; the pictures are below.",
        "Durations, gaps and tmax of sets other than the circles are in tables that are not at "
        "hand: the circles' settings stand in.",
    ),
    "coverage": (
        "Exact: the chi-square distribution. The paper shows curves and prints no number.",
    ),
    "hmc": (
        "Exact: quadrature of the posterior on a grid of latents, itself sampled (two chains or "
        "more). Ours: the sampler in the settings column. The paper shows histograms, from "
        f"{HMC_DRAWS['PRP']} (PRP) and {HMC_DRAWS['PRR']} (PRR).",
    ),
    "correlations": (
        "Mean of the diagonal of the correlation of residuals at time t with those at the first "
        "time. The paper shows curves and prints no number.",
    ),
    "images": (
        "Published: FID of 50,000 images, MSE of 10,000, mean ± 2 sd of 3 seeds. The published MSE "
        "takes squares modulo 256; 'MSE, modulo 256' repeats that, 'MSE' is the plain one.",
        "FID of others on CIFAR-10, as the paper gives them, d = 30, 40, 62: "
        + "; ".join(f"{k} {v[0]:g}, {v[1]:g}, {v[2]:g}" for k, v in OTHERS.items()) + ".",
    ),
    "likelihood": (
        "Toys: exact is the mean negative log density of the same samples under the true density "
        "with the noise N(0, gamma0), in nats. Images: bits a dimension, published by i-DODE; ours "
        "are of training images, which are the ones that dataset_tool.py converts, and are not "
        "compared.",
    ),
}  # fmt: skip
