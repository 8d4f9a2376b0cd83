// An application that implements the pause with the published library scalar-admin: its generated service, over the gRPC of
// Java that it brings along. Started by `peers.rs` as a program of one source file.
//
// Usage: AdminPeer newer|older [CERTIFICATE.pem KEY.pem]

import com.google.protobuf.Empty;
import com.google.protobuf.StringValue;
import com.scalar.admin.rpc.AdminGrpc;
import com.scalar.admin.rpc.CheckPausedResponse;
import com.scalar.admin.rpc.PauseRequest;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerServiceDefinition;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import java.io.File;
import java.net.InetSocketAddress;

public final class AdminPeer {
  private static volatile boolean paused;

  private static final class Newer extends AdminGrpc.AdminImplBase {
    @Override
    public void pause(PauseRequest request, StreamObserver<Empty> answer) {
      AdminPeer.pause(request, answer);
    }

    @Override
    public void unpause(Empty request, StreamObserver<Empty> answer) {
      AdminPeer.unpause(request, answer);
    }

    @Override
    public void checkPaused(Empty request, StreamObserver<CheckPausedResponse> answer) {
      say("check");
      answer.onNext(CheckPausedResponse.newBuilder().setPaused(paused).build());
      answer.onCompleted();
    }
  }

  // The older generation: Stats, whose answer is a string in field 1, as in StringValue; no CheckPaused.
  private static ServerServiceDefinition older() {
    MethodDescriptor<Empty, StringValue> stats =
        MethodDescriptor.<Empty, StringValue>newBuilder()
            .setType(MethodDescriptor.MethodType.UNARY)
            .setFullMethodName("rpc.Admin/Stats")
            .setRequestMarshaller(ProtoUtils.marshaller(Empty.getDefaultInstance()))
            .setResponseMarshaller(ProtoUtils.marshaller(StringValue.getDefaultInstance()))
            .build();
    return ServerServiceDefinition.builder("rpc.Admin")
        .addMethod(AdminGrpc.getPauseMethod(), ServerCalls.asyncUnaryCall(AdminPeer::pause))
        .addMethod(AdminGrpc.getUnpauseMethod(), ServerCalls.asyncUnaryCall(AdminPeer::unpause))
        .addMethod(stats, ServerCalls.asyncUnaryCall(AdminPeer::stats))
        .build();
  }

  private static void pause(PauseRequest request, StreamObserver<Empty> answer) {
    paused = true;
    String limit = request.hasMaxPauseWaitTime() ? " " + request.getMaxPauseWaitTime() : "";
    say("pause " + request.getWaitOutstanding() + limit);
    done(answer);
  }

  private static void unpause(Empty request, StreamObserver<Empty> answer) {
    paused = false;
    say("unpause");
    done(answer);
  }

  private static void stats(Empty request, StreamObserver<StringValue> answer) {
    say("stats");
    answer.onNext(StringValue.of("{\"totalSucceeded\": 0}"));
    answer.onCompleted();
  }

  private static void done(StreamObserver<Empty> answer) {
    answer.onNext(Empty.getDefaultInstance());
    answer.onCompleted();
  }

  private static synchronized void say(String line) {
    System.out.println(line);
  }

  public static void main(String[] arguments) throws Exception {
    NettyServerBuilder builder = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0));
    if (arguments.length == 3) {
      builder.useTransportSecurity(new File(arguments[1]), new File(arguments[2]));
    }
    if (arguments[0].equals("newer")) {
      builder.addService(new Newer());
    } else {
      builder.addService(older());
    }
    Server server = builder.build().start();
    say("listening " + server.getPort());
    server.awaitTermination();
  }
}
