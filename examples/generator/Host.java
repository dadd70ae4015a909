// Draws a text in one call, with ONNX Runtime for Java (com.microsoft.onnxruntime:onnxruntime) and Gson.
// Written from the documentation of both; it has never been compiled or run.
//
//     java -cp onnxruntime.jar:gson.jar Host.java model-generator.onnx "ROMEO:" 500 7
import ai.onnxruntime.*;
import com.google.gson.*;
import java.nio.*;
import java.util.*;

public class Host {
  public static void main(String[] args) throws OrtException {
    OrtEnvironment env = OrtEnvironment.getEnvironment();
    OrtSession session = env.createSession(args[0]);
    Map<String, String> metadata = session.getMetadata().getCustomMetadata();
    JsonObject vocabulary = JsonParser.parseString(metadata.get("charrnn.vocab")).getAsJsonObject();
    JsonObject special = vocabulary.getAsJsonObject("special");
    List<String> symbols = new ArrayList<>();
    for (JsonElement token : vocabulary.getAsJsonArray("tokens")) symbols.add(token.getAsString());
    List<Long> ids = new ArrayList<>();
    if (args[1].isEmpty() || special.has("begin")) ids.add(Long.parseLong(metadata.get("charrnn.start_token")));
    args[1].codePoints().forEach(point -> ids.add((long) symbols.indexOf(Character.toString(point))));
    long[] prompt = ids.stream().mapToLong(Long::longValue).toArray(), row = {1}, scalar = {};
    long end = special.has("end") ? special.get("end").getAsLong() : -1;
    long[] numbers = {prompt.length, 0, 0, 0, Long.parseUnsignedLong(args[3]), Long.parseLong(args[2]), end};
    String[] names = {"prompt_lengths", "index", "position", "top_k", "seed", "length", "end"};
    Map<String, OnnxTensor> feeds = new HashMap<>();
    feeds.put("prompt", OnnxTensor.createTensor(env, LongBuffer.wrap(prompt), new long[] {prompt.length, 1}));
    for (int i = 0; i < names.length; i++)
      feeds.put(names[i], OnnxTensor.createTensor(env, LongBuffer.wrap(numbers, i, 1).slice(), i < 4 ? row : scalar));
    for (String name : List.of("temperature", "top_p", "min_p"))
      feeds.put(name, OnnxTensor.createTensor(env, new double[] {name.equals("min_p") ? 0 : 1}));
    for (JsonElement state : JsonParser.parseString(metadata.get("charrnn.states")).getAsJsonArray()) {
      int size = state.getAsJsonObject().getAsJsonArray("shape").get(1).getAsInt();
      feeds.put(state.getAsJsonObject().get("input").getAsString(), OnnxTensor.createTensor(env, new float[1][size]));
    }
    StringBuilder text = new StringBuilder(args[1]);
    for (long[] token : (long[][]) session.run(feeds).get("tokens").get().getValue())
      if (token[0] >= 0 && token[0] != end) text.append(symbols.get((int) token[0]));
    System.out.println(text);
  }
}
