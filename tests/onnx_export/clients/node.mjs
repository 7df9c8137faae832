import { readFileSync } from "node:fs";
import * as library from "@huggingface/transformers";
import { classify } from "./classify.mjs";

const request = JSON.parse(readFileSync("request.json", "utf8"));
console.log(JSON.stringify(await classify(library, request)));
