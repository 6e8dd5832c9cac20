"""`horovodrun -np 4 python train.py`: the same as `horovod-asl train`."""

from horovod_asl.__main__ import main

if __name__ == "__main__":
    main("train")
