"""LitServe: python -m benchmarks.peers.litserve_app PORT"""

import os
import sys

import litserve
import torch
from fastapi import UploadFile

from benchmarks.peers.model import answer, load_model, opened, prepared


class CatsDogs(litserve.LitAPI):
    def setup(self, device):
        self.model = load_model(os.environ["PEER_BACKEND"])

    def decode_request(self, request: UploadFile):
        return prepared(opened(request.file.read()))

    def batch(self, inputs):
        return torch.stack(inputs)

    def predict(self, x):
        return self.model(x)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return answer(output)


if __name__ == "__main__":
    api = CatsDogs(max_batch_size=8, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
