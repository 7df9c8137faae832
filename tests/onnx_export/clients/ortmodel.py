"""Label texts with optimum: the model's folder is the argument, files and texts come on stdin."""

import json
import sys

from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

request, labels = json.load(sys.stdin), {}
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
for dtype, file in request["files"].items():
    model = ORTModelForSequenceClassification.from_pretrained(sys.argv[1], file_name=file)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    labels[dtype] = [classify(text)[0]["label"] for text in request["texts"]]
json.dump(labels, sys.stdout)
