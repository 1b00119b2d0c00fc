"""The commands that are run: data, nothing else.

A command has a name, and lines. {out} is its own folder, {other} that of another command, which
then runs before it; {inputs} holds what the harness makes (`tests.golden.run`). Lines after the
first are for older or newer trees: the next is tried where one ends in exit code 2, the refusal of
an option or script that is not there. `2x` before a line means two processes of torchrun.
"""

from __future__ import annotations

TRAIN = "--outdir={out} --duration=.002 --batch=100 --device=cpu"
TOY = f"toy_train.py {TRAIN} --data_name"
PAPER_PRR = "--dims_to_keep=1 --g_type=orig --g_rescaling=.15 --rho=1 --tmax=15.01"
UNET = "--cbase=16 --cres=1,2 --num_blocks=1 --lr_rampup=0"
IMAGE = f"train.py --outdir={{out}} --data={{digits}}/digits.zip --batch=30 --device=cpu {UNET}"
RESUME = "--duration=.004 --tick=1 --snap=1 --dump=1 --no-plot"
SIMULATE = "toy_pfODE_int.py net --save_dir={out} --device=cpu --total_samples=60"
IMAGES = "--save_dir={out} --data_root={digits}/digits.zip --device=cpu"
FLOW = f"pfODE_int.py {IMAGES} --bs=12"
NLL_TOYS = (
    "calc_nll.py toys --save_dir={out} --device=cpu --total_samples=60 --solver=rk4 --steps=3"
)
POSTERIOR = "calc_posterior.py --outdir={out} --device=cpu --n=16"
NLL_NET = f"calc_nll.py net {IMAGES} --solver=ab3 --steps=3 --no-plot"
CALIBRATE = "toy_MCMC_exps.py --outdir={out} --network={prr} --device=cpu --solver=rk4 --steps=2"
MCMC = f"{CALIBRATE} --gt_n=8 --chains=2 --mcmc_n=12 --burn=6 --keep_z=3 --prior=dirichlet"
COVER = "run_toy_alphashape_mesh_exps.py --save_dir={out} --device=cpu --solver=rk4 --steps=4"
RESIDUALS = "calc_net_residuals_autocorrelations.py"
DETECTOR = "--detector={inputs}/tiny.pt --detector-input=pixels --device=cpu"

COMMANDS: dict[str, tuple[str, ...]] = {
    # data sets
    "digits": ("dataset_tool.py --source=digits --dest={out}/digits.zip --max-images=90",),
    "all_digits": ("dataset_tool.py --source=digits --dest={out}/digits.zip --no-plot",),
    "colour": (
        "dataset_tool.py --source={digits}/digits.zip --dest={out}/colour.zip --channels=3 "
        "--resolution=8x4 --transform=center-crop-wide --max-images=20",
    ),
    # training of toys
    "vp": (f"{TOY}=moons --no-plot --precond=vp",),
    "prr": (f"{TOY}=circles --no-plot {PAPER_PRR}",),
    "prp": (f"{TOY}=circles --no-plot --t_sampling=arc --weighting=arc",),
    "second": (f"{TOY}=circles --second_order --transfer={{prp}}",),
    "line": (f"{TOY}=gmm1d --no-plot --weighting=likelihood --importance",),
    "surface": (f"{TOY}=s_curve --no-plot --dims_to_keep=2 --space=IS",),
    "convunet": (
        f"{TOY}=alt_swirl --no-plot --arch=ToyConvUNet --augment_to=8 --batch=20 "
        "--duration=.0002 --weighting=noise",
    ),
    "vectors": (
        f"toy_train.py {TRAIN} --no-plot --data={{inputs}}/vectors.csv --dims_to_keep=3 "
        "--inflation_gap=.5",
    ),
    "proportional": (f"{TOY}=moons --no-plot --g_type=proportional",),
    "vp_velocity": (f"{TOY}=swirl --no-plot --precond=vp_velocity --weighting=likelihood",),
    "stopped": (f"{TOY}=sine2 {RESUME} --stop_after=.002",),
    "resumed": (f"{TOY}=sine2 {RESUME} --resume=latest".replace("{out}", "{stopped}"),),
    "two_train": (f"2x {TOY}=circles --no-plot",),
    # training of images
    "image_is": (f"{IMAGE} --duration=.0003 --tmax=6.51 --no-plot",),
    "image_es": (
        f"{IMAGE} --duration=.0003 --space=ES --dims_to_keep=8 --tmax=10.01 --cond --xflip "
        "--inflation_gap=.5 --dropout=0",
    ),
    "image_ncsnpp": (f"{IMAGE} --duration=.00006 --no-plot --arch=ncsnpp --gamma0=1.7e-6 --bf16",),
    "image_adm": (
        f"{IMAGE} --duration=.00006 --no-plot --arch=adm --precond=ve --workers=0 --augment=.5",
    ),
    # simulations of toys, by every solver
    "euler": (f"{SIMULATE} --network={{prr}} --solver=euler --steps=5 --no-plot",),
    "heun": (f"{SIMULATE} --network={{prp}} --solver=heun --steps=4 --no-plot",),
    "ab2": (f"{SIMULATE} --network={{surface}} --solver=ab2 --steps=5 --no-plot",),
    "ab3": (f"{SIMULATE} --network={{convunet}} --solver=ab3 --steps=5 --no-plot",),
    "rk4": (f"{SIMULATE} --network={{prp}} --solver=rk4 --steps=3 --no-plot --save_freq=2",),
    "adaptive": (f"{SIMULATE} --network={{prr}} --solver=adaptive --tol=.01 --no-plot",),
    "reversible": (f"{SIMULATE} --network={{second}} --solver=reversible --steps=6 --no-plot",),
    "paper_euler": (f"{SIMULATE} --network={{prr}} --h=1 --animate --gen_source=empirical",),
    "paper_heun": (f"{SIMULATE} --network={{prp}} --solver=heun --steps=4 --eps=1e-3",),
    "by_tol": (f"{SIMULATE} --network={{vp_velocity}} --tol=.05 --no-plot",),
    "own_vectors": (f"{SIMULATE} --network={{vectors}} --data={{inputs}}/vectors.csv --steps=4",),
    "discrete": (
        "toy_pfODE_int.py discrete --save_dir={out} --device=cpu --total_samples=60 --no-plot "
        "--data_name=circles --dims_to_keep=1 --tmax=7.01 --solver=rk4 --steps=4",
    ),
    # simulations of images
    "image_flow": (f"{FLOW} --network={{image_es}} --solver=heun --steps=3 --class=3",),
    "image_paper": (
        f"{FLOW} --network={{image_is}} --n_iters=4 --disc=ifs --save_freq=2 --no-plot",
    ),
    "image_prev": (
        f"{FLOW} --network={{image_es}} --sim_type=gen --gen_source=empirical --no-plot "
        "--prev_melt={image_flow}/digits_PRRto8D_net_melt_results.npz --solver=reversible "
        "--steps=3",
    ),
    "two_seeds": (
        "2x gen_fid_samples.py --save_dir={out} --network={image_is} --seeds=0-70 --device=cpu "
        "--steps=3 --solver=ab2 --subdirs --no-plot",
    ),
    "seeds": (
        "gen_fid_samples.py --save_dir={out} --network={image_es} --seeds=0-3,20 --device=cpu "
        "--n_iters=4 --no-plot",
    ),
    "mse": (
        f"calc_roundtrip_mse.py {IMAGES} --network={{image_is}} --total_samples=20 --steps=4 "
        "--no-plot",
    ),
    # likelihood
    "nll_exact": (f"{NLL_TOYS} --network={{line}} --sde --sde_times=3",),
    "nll_probes": (
        f"{NLL_TOYS} --network={{prr}} --trace=hutchinson --probes=2 --no-noise --bits --no-plot",
    ),
    "nll_uniform": (f"{NLL_NET} --network={{image_is}} --total_samples=12 --num_importance=2",),
    "nll_tn": (
        f"{NLL_NET} --network={{image_ncsnpp}} --total_samples=6 --dequantization=tn --sde "
        "--sde_times=2",
    ),
    "nll_exact_net": (
        f"{NLL_NET} --network={{image_is}} --total_samples=3 --dequantization=none --trace=exact "
        "--steps=1",
    ),
    # posteriors of measurements
    "measured": (
        f"{POSTERIOR} --network={{vectors}} --observations={{inputs}}/vectors.csv --count=2 "
        "--noise=.5 --particles=32",
    ),
    "measured_hmc": (
        f"{POSTERIOR} --network={{vectors}} --observations={{inputs}}/vectors.csv --count=1 "
        "--relative_noise=.5 --method=hmc --particles=16 --steps=2",
    ),
    "measured_image": (
        f"{POSTERIOR} --network={{image_is}} --image={{digits}}/digits.zip --count=1 --simulate "
        "--mask=left --noise=.3 --particles=16 --steps=4",
    ),
    # residuals
    "outputs_toys": (
        f"{RESIDUALS} extracttoys --save_dir={{out}} --network={{prr}} --device=cpu "
        "--n_samples=40 --h=1",
    ),
    "lags_toys": (
        f"{RESIDUALS} calctoys --save_dir={{out}} --device=cpu --normalization=pearson "
        "--res_root={outputs_toys}/circles_PRRto1D_toy_net_outputs_residuals.npz",
    ),
    "outputs": (
        f"{RESIDUALS} extract {IMAGES} --network={{image_es}} --n_samples=20 --n_time_pts=4 "
        "--noise=shared",
    ),
    "lags": (f"{RESIDUALS} calc --save_dir={{out}} --res_root={{outputs}} --device=cpu --no-plot",),
    # coverage
    "coverage": (f"{COVER} --network={{prr}} --test_pts=300 --num_seeds=2 --r_num=3 --no-plot",),
    "coverage_alpha": (
        f"{COVER} --network={{prp}} --test_pts=200 --num_seeds=1 --r_num=2 --boundary=alphashape "
        "--boundary_pts=60 --no-plot",
    ),
    "coverage_3d": (f"{COVER} --network={{surface}} --test_pts=100 --num_seeds=1 --r_num=2",),
    # posteriors
    "flow": (f"{MCMC} --sampler=flow --proposals=8 --refresh=1 --no-plot",),
    "quadrature": (f"{MCMC} --sampler=quadrature --grid=21 --prior=improper",),
    "nuts": (
        f"{MCMC} --sampler=nuts --no-plot --gt_n=3 --traj_length=3 --mcmc_n=8 --burn=1 --steps=1",
    ),
    "sbc": (f"{CALIBRATE} --experiment=sbc --sims=10 --sim_n=6 --grid=21 --no-plot",),
    "tarp": (f"{CALIBRATE} --experiment=tarp --sims=12 --proposals=16 --no-plot",),
    # quality of images, files, reports
    "reference": (
        f"fid.py ref --data={{digits}}/digits.zip --dest={{out}}/reference.npz {DETECTOR}",
    ),
    "fid": (
        f"fid.py calc --images={{two_seeds}} --ref={{reference}}/reference.npz "
        f"--dest={{out}}/fid.json {DETECTOR}",
    ),
    "quality": (
        "-m metrics.digit_quality --data={all_digits}/digits.zip --images={two_seeds} "
        "--dest={out}/quality.json",
    ),
    "convert": ("-m torch_utils.checkpoint convert {image_es} {out}/network.safetensors",),
    "report": ("report.py {lags_toys} {coverage} {flow} --dest={out}/report.html",),
    "reproduce": ("reproduce.py all --dry-run --outdir=/nowhere",),
}
# Run by `make test`.
QUICK = ("digits", "prr", "heun", "image_is", "mse", "nll_probes", "coverage", "flow")
# Commands whose output is kept as output.txt in their folder.
SPOKEN = ("reproduce",)
