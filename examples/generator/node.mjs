// npm install onnxruntime-node; node node.mjs model-generator.onnx "ROMEO:" 500 7
import { readFileSync } from "node:fs";

import ort from "onnxruntime-node";

import { draw } from "./host.js";

const [file, prompt, length, seed] = process.argv.slice(2);
process.stdout.write(prompt);
for await (const piece of draw(ort, readFileSync(file), prompt, Number(length), seed)) process.stdout.write(piece);
console.log();
