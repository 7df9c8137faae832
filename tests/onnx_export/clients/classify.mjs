// What Node and the page have in common: label texts one at a time, and encode a long one.
export async function classify({ env, pipeline }, { dtype, texts, long }) {
  Object.assign(env, {
    allowLocalModels: true,
    allowRemoteModels: false,
    localModelPath: "models",
  });
  const classifier = await pipeline("text-classification", "exported", { dtype });
  const answers = [];
  for (const text of texts) answers.push(await classifier(text, { top_k: 1000 }));
  const { input_ids } = classifier.tokenizer(long, { truncation: true });
  return { answers, ids: Array.from(input_ids.data, Number) };
}
