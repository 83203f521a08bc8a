"""FastAPI: uvicorn benchmarks.peers.fastapi_app:app --workers 2"""

import os

from fastapi import FastAPI, UploadFile

from benchmarks.peers.model import answer, load_model, opened, prepared

app = FastAPI()
model = load_model(os.environ["PEER_BACKEND"])


@app.post("/predict")
def predict(photo: UploadFile) -> dict[str, object]:
    # Not async: the documentation recommends this for blocking work, which runs in a thread pool.
    return answer(model(prepared(opened(photo.file.read())).unsqueeze(0))[0])
