// Labels texts by the HTTP server of kd, as the Hugging Face inference API: node inference.mjs ADDRESS < texts.json

import { readFileSync } from "node:fs";
import { InferenceClient } from "@huggingface/inference";

const [address, token] = process.argv.slice(2);
const { texts, top_k } = JSON.parse(readFileSync(0, "utf8"));
const client = new InferenceClient(token);
const answers = [];
for (const inputs of texts) {
  answers.push(await client.textClassification({ endpointUrl: address, inputs, parameters: { top_k } }));
}
process.stdout.write(JSON.stringify(answers));
