"""Checks a bundle with MONAI's own tool, then its golden output; runs in an environment with torch and monai.

python monai_worker.py BUNDLE GOLDEN prints the largest difference as a share of the largest value.
"""

import sys

if __name__ == "__main__":
    import numpy as np
    import torch
    from monai.bundle import ConfigParser, verify_net_in_out

    folder, golden = sys.argv[1:]
    sys.path.insert(0, folder)
    config = f"{folder}/configs/inference.json"
    verify_net_in_out("network_def", f"{folder}/configs/metadata.json", config, device="cpu", bundle_root=folder)
    parser = ConfigParser()
    parser.read_config(config)
    parser["bundle_root"] = folder
    network = parser.get_parsed_content("network_def").eval()
    with np.load(golden) as stored:
        image = torch.from_numpy(np.moveaxis(stored["input_0"], -1, 1).copy())
        conditioning = [torch.from_numpy(stored["input_1"])] if "input_1" in stored.files else []
        expected = stored["output_0"]
    with torch.no_grad():
        output = np.moveaxis(network(image, *conditioning).numpy(), 1, -1)
    print(np.abs(output - expected).max() / np.abs(expected).max())
