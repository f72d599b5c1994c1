# Trains the networks of docs/look.md and draws its pictures into the folder look.
set -eu
pointing=configs/experiments/pointing.py

python launch.py --config configs/alexnet.py --workdir runs/alexnet
python -m cv_jax look runs/alexnet filters --count 4 --out look/alexnet

python launch.py --config $pointing:model=resnet8_cifar --workdir runs/resnet
python -m cv_jax look runs/resnet receptive-field layers saliency --count 4 --out look/resnet
python -m cv_jax look runs/resnet cka neighbours projection errors --count 4 --out look/resnet2

python launch.py --config $pointing:model=vit_ti16 --workdir runs/vit
python -m cv_jax look runs/vit embedding positions attention rollout --count 4 --out look/vit

python launch.py --config $pointing:model=swin_t --workdir runs/swin
python -m cv_jax look runs/swin attention positions --count 4 --out look/swin

python launch.py --config configs/image_transformer.py:numbers --workdir runs/numbers
python -m cv_jax look runs/numbers attention --count 4 --out look/numbers

python launch.py --config configs/mae.py --workdir runs/mae
python -m cv_jax look runs/mae reconstruction --count 6 --out look/mae
