"""nnU-Net's Python interface as a user's own program has it, run as one: MODEL FILE ... OUTPUT."""

import sys

import numpy as np
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

if __name__ == "__main__":
    model, *files, output = sys.argv[1:]
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model, (0, 1), "checkpoint_best.pth")
    image, properties = SimpleITKIO().read_images(files)
    _, of_array = predictor.predict_single_npy_array(image, properties, None, None, True)
    ((_, of_files),) = predictor.predict_from_files(
        [files],
        None,
        save_probabilities=True,
        num_processes_preprocessing=1,
        num_processes_segmentation_export=1,
    )
    np.savez(output, of_array=of_array, of_files=of_files)
