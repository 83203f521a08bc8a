"""TorchServe with a handler like its examples: eager mode, one photo per batch."""

import torch
from ts.torch_handler.base_handler import BaseHandler

from benchmarks.peers.model import answer, load_model, opened, prepared


class StockHandler(BaseHandler):
    def initialize(self, context):
        self.model = load_model("eager")
        self.initialized = True

    def preprocess(self, data):
        return torch.stack([prepared(opened(row.get("data") or row["body"])) for row in data])

    def inference(self, data):
        return self.model(data)

    def postprocess(self, data):
        return [answer(row) for row in data]
