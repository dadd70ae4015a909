// Draws a text in one call, with the NuGet package Microsoft.ML.OnnxRuntime (1.16 or later) in a console project of .NET 8.
// Written from its documentation; it has never been compiled or run.
//
//     dotnet run -- model-generator.onnx "ROMEO:" 500 7
using System.Text.Json.Nodes;
using Microsoft.ML.OnnxRuntime;

using var session = new InferenceSession(args[0]);
var metadata = session.ModelMetadata.CustomMetadataMap;
var vocabulary = JsonNode.Parse(metadata["charrnn.vocab"])!;
var symbols = vocabulary["tokens"]!.AsArray().Select(token => (string)token!).ToList();
var special = vocabulary["special"]!.AsObject();
var ids = args[1].EnumerateRunes().Select(rune => (long)symbols.IndexOf(rune.ToString())).ToList();
if (ids.Count == 0 || special.ContainsKey("begin")) ids.Insert(0, long.Parse(metadata["charrnn.start_token"]));
var end = (long?)special["end"] ?? -1;

var feeds = new Dictionary<string, OrtValue>();
void Feed<T>(string name, T[] values, params long[] shape) where T : unmanaged =>
    feeds[name] = OrtValue.CreateTensorValueFromMemory(values, shape);

Feed("prompt", ids.ToArray(), ids.Count, 1);
Feed("prompt_lengths", new long[] { ids.Count }, 1);
foreach (var name in new[] { "index", "position", "top_k" }) Feed(name, new long[1], 1);
foreach (var name in new[] { "temperature", "top_p" }) Feed(name, new[] { 1.0 }, 1);
Feed("min_p", new double[1], 1);
Feed("seed", new[] { unchecked((long)ulong.Parse(args[3])) });
Feed("length", new[] { long.Parse(args[2]) });
Feed("end", new[] { end });
foreach (var state in JsonNode.Parse(metadata["charrnn.states"])!.AsArray())
    Feed((string)state!["input"]!, new float[(int)state["shape"]![1]!], 1, (long)state["shape"]![1]!);
using var outputs = session.Run(new RunOptions(), feeds, new[] { "tokens" });
var drawn = outputs[0].GetTensorDataAsSpan<long>().ToArray().Where(token => token >= 0 && token != end);
Console.WriteLine(args[1] + string.Concat(drawn.Select(token => symbols[(int)token])));
