import CryptoKit
import Foundation

/// An edgeq bundle on disk, verified before anything of it is used.
public struct EdgeqBundle {
    public struct Tensor: Decodable { public let name: String; public let shape: [Dimension] }
    public struct Variant: Decodable {
        public let id: String, runtime: String
        let models: [String: String]?, model: String?
        public let inputs: [Tensor], outputs: [Tensor]
        public let requirements: Requirements?
        /// Of a variant of one graph; nil of several, which this sample does not run. Format 1 has `model` alone.
        var path: String? {
            guard let models = models else { return model }
            return models["model"]
        }
    }
    /// What the variant asks for, as far as this reader acts on it.
    public struct Requirements: Decodable { public let min_ios: Int?; public let max_tokens: Int? }
    struct Format: Decodable { let name: String; let version: String }
    struct Tokenizer: Decodable {
        let max_length: Int, pad_id: Int
        let prompts: [String: String]?, default_prompt: String?
    }
    struct Processor: Decodable { let text: Tokenizer? }
    struct Manifest: Decodable {
        let format: Format; let status: String; let variants: [Variant]
        let processor: Processor?, tokenizer: Tokenizer?
        /// Format 1 calls it `tokenizer`.
        var text: Tokenizer? { processor?.text ?? tokenizer }
    }

    /// A fixed dimension, or the name of a free one.
    public enum Dimension: Decodable {
        case fixed(Int), free(String)
        public init(from decoder: Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let size = try? container.decode(Int.self) { self = .fixed(size) }
            else { self = .free(try container.decode(String.self)) }
        }
    }

    public enum Failure: Error {
        case notABundle(String), newerFormat(String), damaged(String), unlisted(String), noPrompt(String)
        case failedItsGate, noCoreMLVariant, needsIOS(Int)
    }

    public let folder: URL
    public let variant: Variant
    /// Path of the `.mlpackage` in the folder.
    public let model: String
    public let padID: Int
    /// Tokens of a text that the model sees, special ones included; what follows has to be cut before `encode`.
    public let maxTokens: Int?
    /// What goes before a text, by role; empty where the model wants nothing there.
    public let prompts: [String: String]
    let defaultPrompt: String?

    /// Opens a bundle; throws when a file is missing, changed or not listed in SHA256SUMS, when the format is another,
    /// when the bundle failed its quality gate (unless `force`), and when this system is older than the variant takes.
    public init(folder: URL, force: Bool = false) throws {
        try Self.verify(folder)
        let data = try Data(contentsOf: folder.appending(path: "edgeq.json"))
        let manifest = try JSONDecoder().decode(Manifest.self, from: data)
        guard manifest.format.name == "edgeq" else { throw Failure.notABundle(manifest.format.name) }
        guard ["1", "2"].contains(manifest.format.version.prefix { $0 != "." }) else {
            throw Failure.newerFormat(manifest.format.version)
        }
        guard manifest.status == "passed" || force else { throw Failure.failedItsGate }
        guard let variant = manifest.variants.first(where: { $0.runtime == "coreml" && $0.path != nil }),
              let model = variant.path
        else { throw Failure.noCoreMLVariant }
        try Self.require(variant.requirements)
        self.folder = folder
        self.variant = variant
        self.model = model
        maxTokens = variant.requirements?.max_tokens ?? manifest.text?.max_length
        padID = manifest.text?.pad_id ?? 0
        prompts = manifest.text?.prompts ?? [:]
        defaultPrompt = manifest.text?.default_prompt
    }

    /// The text to tokenize: with the prompt of its role, or with the model's default one, if it has one. Without it a
    /// model that was trained with prompts gives other vectors.
    /// - Parameter role: `query`, `document` or another key of `prompts`. A model without a prompt for a query or a
    ///   document uses none; any other name it does not know is an error.
    public func prompted(_ text: String, role: String? = nil) throws -> String {
        guard let name = role ?? defaultPrompt else { return text }
        if let prompt = prompts[name] { return prompt + text }
        let other = name == "document" && (prompts["passage"] ?? prompts["corpus"]) != nil
        guard ["query", "document"].contains(name), !other else { throw Failure.noPrompt(name) }
        return text
    }

    /// Core ML refuses a package of a newer system with a message about its specification; this one names the system.
    static func require(_ requirements: Requirements?) throws {
        guard let oldest = requirements?.min_ios else { return }
        #if os(iOS)
        let here = ProcessInfo.processInfo.operatingSystemVersion.majorVersion
        guard here >= oldest else { throw Failure.needsIOS(oldest) }
        #endif
    }

    static func verify(_ folder: URL) throws {
        let sums = try String(contentsOf: folder.appending(path: "SHA256SUMS"), encoding: .utf8)
        var listed: Set<String> = ["SHA256SUMS"]
        for line in sums.split(separator: "\n") {
            let expected = String(line.prefix(64)), path = String(line.dropFirst(66))
            guard !path.hasPrefix("/"), !path.split(separator: "/").contains("..") else { throw Failure.damaged(path) }
            let data = try Data(contentsOf: folder.appending(path: path), options: .mappedIfSafe)
            let actual = SHA256.hash(data: data).map { String(format: "%02x", $0) }.joined()
            guard actual == expected else { throw Failure.damaged(path) }
            listed.insert(path)
        }
        let root = folder.resolvingSymlinksInPath().path + "/"
        let files = FileManager.default.enumerator(at: folder, includingPropertiesForKeys: [.isRegularFileKey])
        while let file = files?.nextObject() as? URL {
            guard try file.resourceValues(forKeys: [.isRegularFileKey]).isRegularFile == true else { continue }
            let path = String(file.resolvingSymlinksInPath().path.dropFirst(root.count))
            guard listed.contains(path) else { throw Failure.unlisted(path) }
        }
    }
}
