// Draws a text in one call, with ONNX Runtime's C++ interface and nlohmann/json (Debian: nlohmann-json3-dev).
//
//     g++ -std=c++20 -I ORT/include host.cpp -L ORT/lib -lonnxruntime -Wl,-rpath,ORT/lib -o host
//     ./host model-generator.onnx "ROMEO:" 500 7
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

using nlohmann::json;

int main(int, char** argv) {
  Ort::Env env;
  Ort::Session session(env, argv[1], Ort::SessionOptions());
  Ort::AllocatorWithDefaultOptions allocator;
  const auto model = session.GetModelMetadata();
  const auto read = [&](auto key) { return json::parse(model.LookupCustomMetadataMapAllocated(key, allocator).get()); };
  const json vocabulary = read("charrnn.vocab"), special = vocabulary["special"], states = read("charrnn.states");
  const std::vector<std::string> symbols = vocabulary["tokens"];
  std::vector<int64_t> ids;
  if (!*argv[2] || special.contains("begin")) ids.push_back(read("charrnn.start_token"));
  for (const char *at = argv[2], *next; *at; at = next) {  // each character of the UTF-8 text
    for (next = at + 1; (*next & 0xC0) == 0x80;) ++next;
    ids.push_back(std::find(symbols.begin(), symbols.end(), std::string(at, next)) - symbols.begin());
  }
  std::vector<const char*> names;
  std::vector<Ort::Value> values;
  const auto feed = [&]<class T>(const char* name, const std::vector<T>& data, const std::vector<int64_t>& shape) {
    names.push_back(name);
    values.push_back(Ort::Value::CreateTensor<T>(allocator, shape.data(), shape.size()));
    std::copy(data.begin(), data.end(), values.back().GetTensorMutableData<T>());
  };
  const int64_t fed = ids.size(), end = special.value("end", -1), seed = std::stoull(argv[4]);
  feed("prompt", ids, {fed, 1});
  feed("prompt_lengths", std::vector{fed}, {1});
  for (auto name : {"index", "position", "top_k"}) feed(name, std::vector<int64_t>{0}, {1});
  for (auto name : {"temperature", "top_p", "min_p"}) feed(name, std::vector{*name == 'm' ? 0.0 : 1.0}, {1});
  using Scalars = std::map<const char*, int64_t>;
  for (auto [name, value] : Scalars{{"seed", seed}, {"length", std::stoll(argv[3])}, {"end", end}})
    feed(name, std::vector{value}, {});
  for (const json& state : states) {
    const int64_t size = state["shape"][1];
    feed(state["input"].get_ref<const std::string&>().c_str(), std::vector<float>(size), {1, size});
  }
  const char* output = "tokens";
  const auto results = session.Run(Ort::RunOptions(), names.data(), values.data(), values.size(), &output, 1);
  const int64_t* tokens = results[0].GetTensorData<int64_t>();
  std::cout << argv[2];
  for (size_t i = 0; i < results[0].GetTensorTypeAndShapeInfo().GetElementCount(); ++i)
    if (tokens[i] >= 0 && tokens[i] != end) std::cout << symbols[tokens[i]];
  std::cout << std::endl;
}
