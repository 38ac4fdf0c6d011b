// Runs an ONNX model over raw tensors and writes raw tensors: the program that `edgeq validate --on adb` starts on
// a phone.
//
//     runner MODEL FOLDER
//
// FOLDER/request.txt says how the session is to be opened:   option graph_optimization_level LEVEL
// and has one line per input:                                BATCH DTYPE RANK DIM... FILE NAME
// FOLDER/response.txt gets "onnxruntime VERSION" and one such line per output. FILE lies in FOLDER, little-endian,
// C order. toolkit/edgeq/runtime/raw_exchange.py is the other side.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Type {
  const char* name;
  ONNXTensorElementDataType onnx;
  size_t bytes;
};

constexpr Type kTypes[] = {
    {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4},    {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2},
    {"float64", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 8},   {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8},
    {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4},      {"int16", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, 2},
    {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 1},        {"uint64", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, 8},
    {"uint32", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, 4},    {"uint16", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, 2},
    {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1},      {"bool", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 1},
};

const Type& find_type(const std::string& name) {
  for (const Type& type : kTypes)
    if (name == type.name) return type;
  throw std::runtime_error("unknown type " + name);
}

const Type& find_type(ONNXTensorElementDataType onnx) {
  for (const Type& type : kTypes)
    if (onnx == type.onnx) return type;
  throw std::runtime_error("the model has an output of ONNX type " + std::to_string(onnx));
}

size_t count_elements(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), size_t{1}, std::multiplies<size_t>());
}

struct Input {
  std::string name;
  const Type* type;
  std::vector<int64_t> shape;
  std::vector<char> data;
};

using Batches = std::map<int, std::vector<Input>>;

// What the bundle orders for this variant: numbers recorded at one level are not those of another.
struct Request {
  GraphOptimizationLevel level = ORT_ENABLE_ALL;
  Batches batches;
};

struct Level {
  const char* name;
  GraphOptimizationLevel onnx;
};

constexpr Level kLevels[] = {
    {"ORT_DISABLE_ALL", ORT_DISABLE_ALL},
    {"ORT_ENABLE_BASIC", ORT_ENABLE_BASIC},
    {"ORT_ENABLE_EXTENDED", ORT_ENABLE_EXTENDED},
    {"ORT_ENABLE_ALL", ORT_ENABLE_ALL},
};

GraphOptimizationLevel read_option(std::istream& words) {
  std::string key, value;
  words >> key >> value;
  if (key != "graph_optimization_level") throw std::runtime_error("unknown option " + key);
  for (const Level& level : kLevels)
    if (value == level.name) return level.onnx;
  throw std::runtime_error("unknown level " + value);
}

std::vector<char> read_file(const std::string& path, size_t size) {
  std::vector<char> data(size);
  std::ifstream stream(path, std::ios::binary);
  if (!stream.read(data.data(), static_cast<std::streamsize>(size)) || stream.peek() != EOF)
    throw std::runtime_error(path + " does not have " + std::to_string(size) + " bytes");
  return data;
}

Request read_request(const std::string& folder) {
  std::ifstream stream(folder + "/request.txt");
  if (!stream) throw std::runtime_error("no " + folder + "/request.txt");
  Request request;
  for (std::string line; std::getline(stream, line);) {
    std::istringstream words(line);
    if (line.rfind("option ", 0) == 0) {
      words.ignore(7);
      request.level = read_option(words);
      continue;
    }
    int batch = 0;
    size_t rank = 0;
    std::string dtype, file, name;
    words >> batch >> dtype >> rank;
    std::vector<int64_t> shape(rank);
    for (int64_t& dim : shape) words >> dim;
    words >> file >> std::ws;
    if (!std::getline(words, name)) throw std::runtime_error("malformed request line: " + line);
    const Type& type = find_type(dtype);
    auto data = read_file(folder + "/" + file, count_elements(shape) * type.bytes);
    request.batches[batch].push_back({name, &type, std::move(shape), std::move(data)});
  }
  return request;
}

void write_output(const std::string& folder, std::ostream& response, int batch, size_t index, const std::string& name,
                  const Ort::Value& value) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  const Type& type = find_type(info.GetElementType());
  const std::string file = "out" + std::to_string(batch) + "_" + std::to_string(index) + ".bin";
  std::ofstream stream(folder + "/" + file, std::ios::binary);
  stream.write(static_cast<const char*>(value.GetTensorRawData()),
               static_cast<std::streamsize>(info.GetElementCount() * type.bytes));
  if (!stream.flush()) throw std::runtime_error("cannot write " + file);
  const auto shape = info.GetShape();
  response << batch << ' ' << type.name << ' ' << shape.size() << ' ';
  for (int64_t dim : shape) response << dim << ' ';
  response << file << ' ' << name << '\n';
}

void run_batch(Ort::Session& session, const std::vector<std::string>& output_names, std::vector<Input>& inputs,
               const std::string& folder, std::ostream& response, int batch) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<const char*> names, outputs;
  std::vector<Ort::Value> values;
  for (Input& input : inputs) {
    names.push_back(input.name.c_str());
    values.push_back(Ort::Value::CreateTensor(memory, input.data.data(), input.data.size(), input.shape.data(),
                                              input.shape.size(), input.type->onnx));
  }
  for (const std::string& name : output_names) outputs.push_back(name.c_str());
  const auto results = session.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(),
                                   outputs.data(), outputs.size());
  for (size_t i = 0; i < results.size(); ++i) write_output(folder, response, batch, i, output_names[i], results[i]);
}

void run(const char* model, const std::string& folder) {
  Request request = read_request(folder);
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "edgeq");
  Ort::SessionOptions options;
  options.SetGraphOptimizationLevel(request.level);
  Ort::Session session(env, model, options);
  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::string> names;
  for (size_t i = 0; i < session.GetOutputCount(); ++i)
    names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
  std::ofstream response(folder + "/response.txt");
  response << "onnxruntime " << OrtGetApiBase()->GetVersionString() << '\n';
  for (auto& [batch, inputs] : request.batches) run_batch(session, names, inputs, folder, response, batch);
  if (!response.flush()) throw std::runtime_error("cannot write response.txt");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s MODEL FOLDER\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
